"""A server whose model hangs ends itself, so that whoever keeps it (a keeper, an engine, a parent, a cluster) starts another.

A predict in the thread that outlasts twice the deadline answers nobody any more: what waits is answered 503, the prediction
log is written out, and the process ends with EXIT. One that keeps the interpreter's lock, or hangs on the event loop itself,
lets no code of ours run: faulthandler's own thread, which needs no lock, ends the process once the loop has stood still for as
long. The stacks of all threads go to stderr. A server that drains is watched by whoever told it to.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import time

from bentos.serving.server.dataplane import DataPlane

logger = logging.getLogger("shipway.server")

EXIT = os.EX_SOFTWARE  # 70
LEAST_SECONDS = 10.0  # a loop that stands still for less is a busy machine
MOST_SECONDS = 86_400.0  # what faulthandler's clock holds
AGAIN_SECONDS = 1.0  # between two winds of faulthandler's clock
FLUSH_SECONDS = 0.2  # for the last answers to leave


class Watchdog:
    """Watches *plane*, and ends this process; only for a process that serves nothing else."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._wound = 0.0
        self._ends_at = 0.0

    def look(self) -> None:
        """To be called on the event loop several times a second."""
        now = time.monotonic()
        if self._ends_at:
            if now >= self._ends_at:
                os._exit(EXIT)
        elif dead := self._plane.state.dead:
            logger.error("%s; the server ends with %d, to be started again", dead, EXIT)
            faulthandler.dump_traceback(sys.stderr, all_threads=True)
            self._plane.drain()
            self._plane.abandon()
            self._ends_at = now + FLUSH_SECONDS
        if now - self._wound >= AGAIN_SECONDS:
            self._wound = now
            seconds = min(max(LEAST_SECONDS, self._plane.state.hung_after), MOST_SECONDS)
            faulthandler.dump_traceback_later(seconds, exit=True, file=sys.stderr)

    def stop(self) -> None:
        """Watches no more."""
        faulthandler.cancel_dump_traceback_later()
