"""Workers: one socket, and several servers of the same version behind it, each a process of its own.

The parent owns the socket, loads no model, and deals the connections that it accepts to the worker that has fewest: a
kernel that lets them race for connections gave one of four workers all of sixteen. Workers are started anew, never forked:
native libraries have threads. Nobody is let in before all are ready; then whoever dies is started again, while the others
answer.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import logging
import os
import queue
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from bentos.serving.cells import CLOSED_AT, SharedCells
from bentos.serving.server.listening import bound, where
from bentos.serving.server.process import (
    BACKOFF,
    READY_SECONDS,
    SOUND_SECONDS,
    TICK,
    ServerProcess,
    exit_code,
    tell_failure,
    terminate,
)

logger = logging.getLogger("shipway.workers")
BACKLOG = 2048
_PR_SET_PDEATHSIG = 1


@dataclass
class _Slot:
    """One worker's place."""

    server: ServerProcess | None = None
    given: socket.socket | None = None  # where its connections go
    ready: bool = False
    dealt: int = 0  # connections so far
    again: float = 0.0  # when it is started again (monotonic)
    backoff: float = BACKOFF[0]

    def let_go(self) -> None:
        """Nothing is left of its server."""
        if self.server is not None:
            self.server.kill()
        if self.given is not None:
            self.given.close()
        self.server, self.given, self.ready = None, None, False


class Workers:
    """Keeps *count* servers behind *listener*, until a signal comes or the line *above* to a parent of our own ends.

    *arguments* are the launcher's. *ready* is called once all of them answer. A context manager: none is left on exit.
    """

    def __init__(
        self,
        count: int,
        listener: socket.socket,
        arguments: Sequence[str],
        *,
        above: socket.socket | None,
        ready: Callable[[], None],
    ) -> None:
        self._listener, self._arguments, self._above, self._ready = listener, list(arguments), above, ready
        self._slots = [_Slot() for _ in range(count)]
        self._memory = SharedCells.create(count)
        self._cells = SharedCells(self._memory).servers()
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._open = self._retiring = False
        self._heard = b""
        self._standing = ""  # what a worker is told that comes later

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for slot in self._slots:
            slot.let_go()
        os.close(self._memory)

    def run(self) -> int:
        """The exit code: 0 after a drain or a retirement, else that of a worker that could not start."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: self._signals.put(number))
        self._listener.setblocking(False)
        if self._above is not None:
            self._above.setblocking(False)
        for index in range(len(self._slots)):
            self._start(index)
        while True:
            self._deal()
            if not self._signals.empty() or not self._listen():
                return self._end()
            for index in range(len(self._slots)):
                if (failed := self._look(index)) is not None:
                    return exit_code(failed)
            if self._retiring and not self._servers():
                return 0
            if not self._open and all(slot.ready for slot in self._slots):
                self._let_in()

    def _start(self, index: int) -> None:
        slot = self._slots[index]
        slot.given, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        slot.given.setblocking(False)
        slot.dealt, slot.ready = 0, False
        with theirs:
            descriptors = [theirs.fileno(), self._memory]
            own = ["--worker", str(index), "--connections-fd", str(theirs.fileno()), "--cells-fd", str(self._memory)]
            slot.server = ServerProcess(sys.executable, [*self._arguments, *own], os.environ, descriptors)

    def _deal(self) -> None:
        """Deals connections for a TICK at most, less where one came."""
        listening = [self._listener] if self._open and not self._retiring and any(s.ready for s in self._slots) else []
        came, _, _ = select.select(listening, [], [], TICK)
        began = time.monotonic()
        while came and time.monotonic() - began < TICK:
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # the client has gone, or too many files are open
                logger.warning("a connection was not accepted: %s", error)
                time.sleep(TICK)
                return
            with connection:
                if connection.family != socket.AF_UNIX:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._give(connection)

    def _give(self, connection: socket.socket) -> None:
        """To the worker with the fewest open connections; to the next one where it takes none."""

        def load(index: int) -> tuple[int, int]:
            dealt = self._slots[index].dealt
            return dealt - self._cells[index][CLOSED_AT], dealt

        for index in sorted((index for index, slot in enumerate(self._slots) if slot.ready), key=load):
            slot = self._slots[index]
            assert slot.given is not None
            with contextlib.suppress(OSError):  # it is dead, or has not taken the last hundreds
                socket.send_fds(slot.given, [b"c"], [connection.fileno()])
                slot.dealt += 1
                return

    def _look(self, index: int) -> int | None:
        """Looks after one worker. None, or its exit code where it ended before anybody was let in."""
        slot, now = self._slots[index], time.monotonic()
        if slot.server is None:
            if not self._retiring and now >= slot.again:
                slot.backoff = min(slot.backoff * 2, BACKOFF[1])
                try:
                    self._start(index)
                except OSError as error:  # no memory, or too many processes: the others still answer
                    logger.error("worker %d was not started: %s", index, error)
                    slot.let_go()
                    slot.again = now + slot.backoff
            return None
        code = slot.server.ended()
        if code is None and not slot.ready:
            slot.ready = slot.server.said("ready")
            if slot.ready and self._standing:
                slot.server.say(self._standing)
            if slot.ready or now - slot.server.started < READY_SECONDS:
                return None
            logger.error("worker %d was not ready within %.0f s", index, READY_SECONDS)
            code = -signal.SIGKILL
        if code is None:
            return None
        if not self._open:
            if self._above is not None:
                tell_failure(self._above.fileno(), slot.server.why() or f"worker {index} ended with {code}")
            return code or 1
        if now - slot.server.started > SOUND_SECONDS:
            slot.backoff = BACKOFF[0]
        if not self._retiring:
            logger.error("worker %d ended with %d; it is started again in %.1f s", index, code, slot.backoff)
        slot.let_go()
        slot.again = now + slot.backoff
        return None

    def _let_in(self) -> None:
        self._listener.listen(BACKLOG)
        self._open = True
        self._ready()
        if self._above is not None:
            self._above.sendall(b"ready\n")

    def _listen(self) -> bool:
        """Passes on what our own parent says; False once it is gone."""
        if self._above is None:
            return True
        try:
            more = self._above.recv(65536)
        except BlockingIOError:
            return True
        except OSError:
            return False
        *lines, self._heard = (self._heard + more).split(b"\n")
        for line in (part.decode("utf-8", "replace") for part in lines):
            self._retiring = self._retiring or line == "retire"
            self._standing = line if line.startswith("refused") else ""
            for server in self._servers():
                server.say(line)
        return bool(more)

    def _end(self) -> int:
        """Drains all, with whoever comes meanwhile; a second signal is handed on, and ends the drain at once."""
        servers = self._servers()
        terminate(servers)
        heard = self._signals.qsize()
        while any(server.ended() is None for server in servers):
            if self._signals.qsize() > heard:
                heard = self._signals.qsize()
                terminate(servers)
            for slot in self._slots:
                slot.ready = slot.ready and slot.server is not None and slot.server.ended() is None
            self._deal()
        return max((exit_code(server.ended() or 0) for server in servers), default=0)

    def _servers(self) -> list[ServerProcess]:
        return [slot.server for slot in self._slots if slot.server is not None]


def run_workers(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Serves with the ``workers`` of the launcher's *options*, each with *arguments*; the exit code."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(bound(options))
        above = None
        if options.parent_fd is not None:
            above = stack.enter_context(socket.socket(fileno=options.parent_fd))
        said = f"shipway launcher: {options.workers} workers listening on {where(listener, options)}"
        workers = Workers(options.workers, listener, arguments, above=above, ready=lambda: print(said, flush=True))
        return stack.enter_context(workers).run()


def die_with_parent() -> None:
    """The kernel kills this process when the one that started it is gone, whatever ended it (Linux, prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
