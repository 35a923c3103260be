"""Handover: one listening socket, and behind it one server after the other, each with an interpreter of its own or this one.

The parent owns the socket and hands it to its children. A new version's server accepts beside the old one's as soon as it
is warm; then the old one retires. At no moment does nobody accept: the version that answers is started again whenever its
server dies, also while the next one loads.

The parent runs without the models' libraries: standard library, packaging and pyyaml.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import Self

from bentos.serving.follow.slot import Server, Slot, State
from bentos.serving.follow.upcoming import Followed, Refusal, Runnable, Upcoming
from bentos.serving.inputs.compatible import incompatibility
from bentos.serving.inputs.signature import SignatureError, load_signature
from bentos.serving.server.process import TICK, ServerProcess, exit_code, terminate

logger = logging.getLogger("shipway.start")
ACCIDENTS = 3  # times that a signal may end the server of the next version before that is refused


class Handover:
    """Keeps a server of the version that *followed* names on *listener*, until a signal comes.

    *arguments* and *environment* are the servers'. A context manager: no server is left on exit.
    """

    def __init__(
        self,
        followed: Followed,
        listener: socket.socket,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        poll_seconds: float,
    ) -> None:
        self._followed, self._listener, self._poll_seconds = followed, listener, poll_seconds
        self._arguments, self._environment = ["--model", followed.name, *arguments], environment
        self._news: queue.SimpleQueue[Runnable | Refusal | int] = queue.SimpleQueue()
        self._live: Slot | None = None  # of the version that answers
        self._next: Slot | None = None  # of the one that is to take its place
        self._retiring: list[Slot] = []
        self._refused = ""
        self._upcoming: Upcoming | None = None  # nothing else is looked for before the first one is ready

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for slot in self._slots():
            slot.drop()

    def run(self, first: Runnable) -> int:
        """Serves *first*, then what the alias moves to. The exit code: 0 after a drain, else that of a first server that
        did not become ready."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: self._news.put(number))
        self._live = Slot(first, self._start)
        try:
            while True:
                with contextlib.suppress(queue.Empty):
                    news = self._news.get(timeout=TICK)
                    if isinstance(news, int):
                        return self._end()
                    self._take(news)
                if (failed := self._look(self._live)) is not None:
                    return exit_code(failed)
        finally:
            if self._upcoming is not None:
                self._upcoming.stop()

    def _start(self, runnable: Runnable) -> ServerProcess:
        return Server(runnable, self._listener, self._arguments, self._environment)

    def _take(self, news: Runnable | Refusal) -> None:
        """The alias has moved."""
        assert self._live is not None
        good = self._live.runnable
        if self._next is not None:  # overtaken
            self._next.drop()
            self._next = None
        if isinstance(news, Refusal):
            self._refuse(news)
        elif news.version == good.version:
            self._refused = ""
            self._live.say("kept")
        elif reason := _mismatch(good, news):
            self._refuse(Refusal(news.version, reason))
        else:
            self._next = Slot(news, self._start)

    def _look(self, live: Slot) -> int | None:
        """Looks after the servers. None, or an exit code where the first one failed."""
        happened = live.look()
        if happened == "failed":
            if self._upcoming is None:
                return live.code or 1
            logger.error("%s: %s; it is started again", live.runnable.version, live.why)
        elif happened == "ready":
            if self._upcoming is None:
                self._follow(live.runnable.version)
            elif self._refused:
                live.say(f"refused {self._refused}")
        if self._next is not None and (happened := self._next.look()) is not None:
            self._arrived(self._next, ready=happened == "ready")
        for slot in self._retiring:
            slot.look()
        self._retiring = [slot for slot in self._retiring if slot.state is not State.GONE]
        return None

    def _follow(self, version: str) -> None:
        self._upcoming = Upcoming(self._followed, version, self._news.put, poll_seconds=self._poll_seconds)
        self._upcoming.start()

    def _arrived(self, new: Slot, *, ready: bool) -> None:
        """The next version accepts, and the old one retires; or it does not start, and the old one stays."""
        old = self._live
        assert old is not None and self._upcoming is not None
        if not ready and new.code < 0 and new.falls < ACCIDENTS:  # somebody ended it: no word against the version
            logger.warning("%s: %s; it is tried again", new.runnable.version, new.why)
            return
        self._next = None
        if not ready:
            new.drop()
            self._refuse(Refusal(new.runnable.version, new.why))
            return
        old.retire()
        self._retiring.append(old)
        self._live, self._refused = new, ""
        new.say("taken")
        version, before = new.runnable.version, old.runnable.version
        logger.info("%s: version %s answers now, %s did", self._followed.name, version, before)
        self._upcoming.keep_only(version, before)

    def _refuse(self, refusal: Refusal) -> None:
        assert self._live is not None
        self._refused = f"{self._followed.name}/{refusal.version} is refused: {refusal.reason}"
        logger.error("%s; %s goes on answering", self._refused, self._live.runnable.version)
        self._live.say(f"refused {self._refused}")

    def _end(self) -> int:
        """Drains all servers; a second signal is handed on, and ends the drain at once."""
        serving = self._live.server if self._live is not None else None
        servers = [slot.server for slot in self._slots() if slot.server is not None]
        terminate(servers)
        while any(server.ended() is None for server in servers):
            with contextlib.suppress(queue.Empty):
                if isinstance(self._news.get(timeout=TICK), int):
                    terminate(servers)
        return exit_code((serving.ended() or 0) if serving is not None else 0)

    def _slots(self) -> list[Slot]:
        return [slot for slot in (self._live, self._next, *self._retiring) if slot is not None]


def _mismatch(old: Runnable, new: Runnable) -> str:
    """Why requests for *old* do not fit *new*; "" where they do."""
    try:
        reason = incompatibility(load_signature(old.tree), load_signature(new.tree))
    except SignatureError as error:
        return str(error)
    return f"its signature does not fit {old.version}'s requests: {reason}" if reason else ""
