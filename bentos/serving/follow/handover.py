"""Handover: one listening socket, and behind it one server after the other, each with an interpreter of its own or this one.

The parent owns the socket and hands it to its children. A new version's server accepts beside the old one's as soon as it
is warm; then the old one retires. At no moment does nobody accept.

The parent runs without the models' libraries: standard library, packaging and pyyaml.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Self

from bentos.serving.follow.upcoming import Followed, Refusal, Runnable, Upcoming
from bentos.serving.inputs.compatible import incompatibility
from bentos.serving.inputs.signature import SignatureError, load_signature
from bentos.serving.server.process import (
    BACKOFF,
    READY_SECONDS,
    SOUND_SECONDS,
    TICK,
    ServerProcess,
    exit_code,
    terminate,
)

logger = logging.getLogger("shipway.start")
RETIRE_SECONDS = 600.0  # a retired server that is still there is killed


class Child(ServerProcess):
    """One server of *runnable* on the socket *listener*."""

    def __init__(
        self, runnable: Runnable, listener: socket.socket, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self.runnable = runnable
        what = ["--bento", str(runnable.tree), "--version", runnable.version, "--fd", str(listener.fileno())]
        super().__init__(str(runnable.python), [*what, *arguments], environment, [listener.fileno()])


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
        self._serving: Child | None = None
        self._coming: Child | None = None
        self._retiring: list[Child] = []
        self._good: Runnable | None = None  # the version that served last
        self._refused = ""
        self._again, self._backoff = 0.0, BACKOFF[0]
        self._upcoming: Upcoming | None = None  # nothing else is looked for before the first one is ready

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children():
            child.kill()

    def run(self, first: Runnable) -> int:
        """Serves *first*, then what the alias moves to. The exit code: 0 after a drain, else that of a first server that
        did not become ready."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: self._news.put(number))
        self._start(first)
        try:
            while True:
                with contextlib.suppress(queue.Empty):
                    news = self._news.get(timeout=TICK)
                    if isinstance(news, int):
                        return self._end()
                    self._take(news)
                if (failed := self._look()) is not None:
                    return exit_code(failed)
        finally:
            if self._upcoming is not None:
                self._upcoming.stop()

    def _start(self, runnable: Runnable) -> None:
        """Starts a server beside the one that serves; one that is still coming is dropped."""
        if self._coming is not None:
            self._coming.kill()
            self._coming = None
        try:
            self._coming = Child(runnable, self._listener, self._arguments, self._environment)
        except OSError as error:
            if self._good is None:
                raise
            self._not_ready(runnable, f"its server cannot be started: {error}")

    def _take(self, news: Runnable | Refusal) -> None:
        """The alias has moved."""
        good = self._good
        assert good is not None
        if self._coming is not None and self._coming.runnable.version != good.version:  # overtaken
            self._coming.kill()
            self._coming = None
        if isinstance(news, Refusal):
            self._refuse(news)
        elif news.version == good.version:
            self._refused = ""
            self._tell("kept")
        elif reason := _mismatch(good, news):
            self._refuse(Refusal(news.version, reason))
        else:
            self._start(news)

    def _look(self) -> int | None:
        """Looks after the servers. None, or an exit code where the first one failed."""
        now = time.monotonic()
        if self._coming is not None:
            code = self._coming.ended()
            if code is None and self._coming.said("ready"):
                self._hand_over()
            elif code is not None or now - self._coming.started > READY_SECONDS:
                failed, self._coming = self._coming, None
                ended = f"its server ended with {code}: {failed.why() or 'the log above says why'}"
                failed.kill()
                if self._good is None:
                    return code or 1
                late = f"it was not ready within {READY_SECONDS:.0f} s; the log above says why"
                self._not_ready(failed.runnable, late if code is None else ended)
        self._revive(now)
        for child in self._retiring:
            if child.ended() is not None or now - child.started > RETIRE_SECONDS:
                child.kill()
        self._retiring = [child for child in self._retiring if child.ended() is None]
        return None

    def _revive(self, now: float) -> None:
        """Starts the server again that died, after a while."""
        if self._serving is not None and (code := self._serving.ended()) is not None:
            logger.error("the server of %s ended with %d; it is started again", self._serving.runnable.version, code)
            if now - self._serving.started > SOUND_SECONDS:
                self._backoff = BACKOFF[0]
            self._serving.kill()
            self._serving, self._again = None, now + self._backoff
        if self._serving is None and self._coming is None and self._good is not None and now >= self._again:
            self._backoff = min(self._backoff * 2, BACKOFF[1])
            self._start(self._good)

    def _hand_over(self) -> None:
        """The new server accepts: the old one retires."""
        new, old, before = self._coming, self._serving, self._good
        assert new is not None
        self._serving, self._coming, self._good = new, None, new.runnable
        if old is not None:
            old.say("retire")
            old.started = time.monotonic()  # of its retirement
            self._retiring.append(old)
        if before is None:
            follow = Upcoming(self._followed, new.runnable.version, self._news.put, poll_seconds=self._poll_seconds)
            self._upcoming = follow
            follow.start()
        elif before.version == new.runnable.version:  # it had died
            if self._refused:
                self._tell(f"refused {self._refused}")
        else:
            self._refused, self._backoff = "", BACKOFF[0]
            self._tell("taken")
            logger.info("%s: version %s answers now, %s did", self._followed.name, new.runnable.version, before.version)
            assert self._upcoming is not None
            self._upcoming.keep_only(new.runnable.version, before.version)

    def _not_ready(self, runnable: Runnable, how: str) -> None:
        if self._good is not None and runnable.version == self._good.version:
            logger.error("%s did not start again: %s", runnable.version, how)
            self._again = time.monotonic() + self._backoff
        else:
            self._refuse(Refusal(runnable.version, how))

    def _refuse(self, refusal: Refusal) -> None:
        self._refused = f"{self._followed.name}/{refusal.version} is refused: {refusal.reason}"
        logger.error("%s; %s goes on answering", self._refused, self._good.version if self._good else "none")
        self._tell(f"refused {self._refused}")

    def _tell(self, line: str) -> None:
        if self._serving is not None:
            self._serving.say(line)

    def _end(self) -> int:
        """Drains all servers; a second signal is handed on, and ends the drain at once."""
        serving = self._serving
        children = self._children()
        terminate(children)
        while any(child.ended() is None for child in children):
            with contextlib.suppress(queue.Empty):
                if isinstance(self._news.get(timeout=TICK), int):
                    terminate(children)
        return exit_code((serving.ended() or 0) if serving is not None else 0)

    def _children(self) -> list[Child]:
        return [child for child in (self._serving, self._coming, *self._retiring) if child is not None]


def _mismatch(old: Runnable, new: Runnable) -> str:
    """Why requests for *old* do not fit *new*; "" where they do."""
    try:
        reason = incompatibility(load_signature(old.tree), load_signature(new.tree))
    except SignatureError as error:
        return str(error)
    return f"its signature does not fit {old.version}'s requests: {reason}" if reason else ""
