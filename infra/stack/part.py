"""Part: one process of the embedded stack, as plain values."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from bentos.serving.errors import PermanentError, TransientError


class StackError(PermanentError):
    """The stack cannot start or stop as asked; the message says what is in the way."""


class TransientStackError(TransientError):
    """A part is not there yet; the same call may succeed later."""


class PartState(StrEnum):
    """How far a part has come."""

    WAITING = "waiting"  # for the parts it stands on
    STARTING = "starting"  # its process runs, its health check has not answered yet
    READY = "ready"
    DONE = "done"  # a task that ran once and succeeded
    BACKOFF = "backoff"  # it died or did not get ready; it is tried again later
    STOPPED = "stopped"
    EXTERNAL = "external"  # the user's own server is used instead


UP = frozenset({PartState.READY, PartState.DONE, PartState.EXTERNAL})


@dataclass(frozen=True)
class Part:
    """What runs, when it may start, and how one knows that it is ready.

    ``healthy`` is asked about four times a second until it says True; it must answer within half a second and never
    raise. With ``once`` the part is a task: it is done when its process ends with 0 and is tried again when it does not.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]  # the whole environment of the process
    cwd: Path
    log: Path
    healthy: Callable[[], bool]
    url: str = ""  # where a person or a client finds it
    ports: Mapping[str, int] = field(default_factory=dict)  # TCP ports it listens on, by the setting that chooses each
    after: tuple[str, ...] = ()  # parts that must be up before this one starts
    once: bool = False
    optional: bool = False  # True: the stack counts as up without it
    start_seconds: float = 120.0
    death_signal: int = signal.SIGKILL  # what the kernel sends it when the supervisor dies (Linux)
    drain: Callable[[], object] | None = None  # lets what it does for clients end, before the stack ends it
    spares_children: bool = False  # True: what it started lives on when it dies, until the stack goes down


@dataclass(frozen=True)
class ExternalPart:
    """A part that the user runs elsewhere, named by an environment variable."""

    name: str
    url: str
    variable: str  # the variable that named it


@dataclass(frozen=True)
class PartStatus:
    """What the supervisor knows about one part now."""

    name: str
    state: PartState
    url: str = ""
    pid: int | None = None
    identity: str | None = None  # with the pid it names one process for good
    restarts: int = 0
    last_exit: str = ""  # how its last process ended: "exit 1", "signal SIGKILL", "not ready in 120 s"
    next_try: float | None = None  # unix seconds, in BACKOFF
    since: float = 0.0  # unix seconds of the last change of state
    log: str = ""
    optional: bool = False
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def up(self) -> bool:
        """Whether the rest of the stack may count on it."""
        return self.state in UP
