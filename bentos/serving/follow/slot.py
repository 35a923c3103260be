"""The place of one version behind the socket: its server, and how that stands.

DOWN ── in time ──▶ STARTING ── says ready ──▶ SERVING ── its version is replaced ──▶ RETIRING ── its last answer ──▶ GONE
  ▲                    │                          │
  └──── ends, or is not ready in time ────────────┘   dropped: GONE from anywhere
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Literal

from bentos.serving.follow.upcoming import Runnable
from bentos.serving.server.process import BACKOFF, READY_SECONDS, SOUND_SECONDS, ServerProcess

RETIRE_SECONDS = 600.0  # a retired server that is still there is killed


class Server(ServerProcess):
    """A server of *runnable* on the socket *listener*."""

    def __init__(
        self, runnable: Runnable, listener: socket.socket, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        what = ["--bento", str(runnable.tree), "--version", runnable.version, "--fd", str(listener.fileno())]
        super().__init__(str(runnable.python), [*what, *arguments], environment, [listener.fileno()])


class State(Enum):
    """How a version's server stands."""

    DOWN = "there is none; it is started again after a while"
    STARTING = "started, not ready yet"
    SERVING = "accepts"
    RETIRING = "accepts nothing more, and answers what it has"
    GONE = "ended for good"


class Slot:
    """The place of *runnable*, DOWN until the next ``look``. *start* makes its server; it raises OSError where it cannot."""

    def __init__(self, runnable: Runnable, start: Callable[[Runnable], ServerProcess]) -> None:
        self.runnable = runnable
        self.state = State.DOWN
        self.server: ServerProcess | None = None
        self.code = 0  # of the server that ended last, 1 where it was not ready in time
        self.why = ""  # it failed last
        self.falls = 0  # how often its server ended or was not ready in time
        self._start = start
        self._again = 0.0  # when it is started again, on the clock of time.monotonic
        self._backoff = BACKOFF[0]
        self._since = 0.0  # of the state

    def look(self) -> Literal["ready", "failed", None]:
        """Goes from one state to the next where it is time to: "ready" where it serves now, "failed" where its server is down
        now and ``why`` says for what reason."""
        now = time.monotonic()
        if self.state is State.DOWN and now >= self._again:
            return self._begin(now)
        if self.server is None:
            return None
        code = self.server.ended()
        if self.state is State.STARTING:
            if code is None and self.server.said("ready"):
                self._enter(State.SERVING, now)
                return "ready"
            if code is not None:
                said = self.server.why() or "the log above says why"
                return self._fall(now, code, f"its server ended with {code}: {said}")
            if now - self._since > READY_SECONDS:
                late = f"it was not ready within {READY_SECONDS:.0f} s; the log above says why"
                return self._fall(now, 1, late)
        elif self.state is State.SERVING and code is not None:
            if now - self._since > SOUND_SECONDS:
                self._backoff = BACKOFF[0]
            return self._fall(now, code, f"its server ended with {code}")
        elif self.state is State.RETIRING and (code is not None or now - self._since > RETIRE_SECONDS):
            self.drop()
        return None

    def retire(self) -> None:
        """Another version has taken its place."""
        if self.state is not State.SERVING or self.server is None:
            self.drop()
            return
        self.server.say("retire")
        self._enter(State.RETIRING, time.monotonic())

    def drop(self) -> None:
        """Ends it now."""
        if self.server is not None:
            self.server.kill()
        self.server = None
        self.state = State.GONE

    def say(self, line: str) -> None:
        """One line to the server, where it serves."""
        if self.server is not None and self.state is State.SERVING:
            self.server.say(line)

    def _enter(self, state: State, now: float) -> None:
        self.state, self._since = state, now

    def _begin(self, now: float) -> Literal["failed", None]:
        try:
            self.server = self._start(self.runnable)
        except OSError as error:  # no memory, or too many processes
            return self._fall(now, 1, f"its server cannot be started: {error}")
        self._enter(State.STARTING, now)
        return None

    def _fall(self, now: float, code: int, why: str) -> Literal["failed"]:
        if self.server is not None:
            self.server.kill()
        self.server, self.code, self.why = None, code, why
        self.falls += 1
        self._enter(State.DOWN, now)
        self._again = now + self._backoff
        self._backoff = min(self._backoff * 2, BACKOFF[1])
        return "failed"
