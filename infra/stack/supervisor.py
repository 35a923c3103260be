"""The supervisor: starts parts in their order, watches them, starts again what died, and ends them all."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import FileIO
from pathlib import Path

from infra.log_files import bound, open_log
from infra.processes import identity
from infra.stack import part_process
from infra.stack.part import ExternalPart, Part, PartState, PartStatus
from infra.stack.state import StackState, write_state

log = logging.getLogger(__name__)

_COMING = (PartState.WAITING, PartState.STARTING)

_BACKOFF_FIRST, _BACKOFF_MOST = 0.5, 30.0  # seconds
_STEADY_SECONDS = 60.0  # a part that was ready this long starts over with the first backoff
_STOP_SECONDS = 8.0  # between SIGTERM and SIGKILL at the end
_TICK_STARTING, _TICK_STEADY = 0.2, 0.5  # seconds between two looks
LOG_BYTES = 20 * 1024 * 1024  # of one file of a log; two are kept


@dataclass(frozen=True)
class Duty:
    """Something the supervisor does about twice a second; it is told the time in unix seconds.

    What it raises is logged, shown by status, and the duty is done again at the next tick.
    """

    name: str
    do: Callable[[float], object]


@dataclass
class _Child:
    """One part and what became of it."""

    part: Part
    status: PartStatus
    popen: subprocess.Popen[bytes] | None = None
    log: FileIO | None = None  # held open, so that it is bounded although somebody removed it
    started: float = 0.0  # monotonic
    failures: int = 0  # ends in a row without a steady time between
    next_try: float = 0.0  # monotonic


@dataclass
class Supervisor:
    """Runs *parts* until ``stop`` or SIGTERM. One thread; near 0 % CPU once everything is up.

    Parts with equal names are refused. ``home`` marks the processes, ``folder`` is where the state is written.
    """

    parts: Sequence[Part]
    home: Path
    folder: Path
    external: Sequence[ExternalPart] = ()
    duties: Sequence[Duty] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts] + [part.name for part in self.external]
        unknown = {name for part in self.parts for name in part.after} - set(names)
        if len(set(names)) != len(names) or unknown:
            raise ValueError(f"parts {names} must have names of their own, and wait only for each other: {unknown}")
        now = time.time()
        self._children = [
            _Child(part, _status(part, PartState.WAITING, since=now, log=str(part.log), optional=part.optional))
            for part in self.parts
        ]
        self._outside = [
            PartStatus(part.name, PartState.EXTERNAL, url=part.url, since=now, extra={"from": part.variable})
            for part in self.external
        ]
        self._problems: dict[str, str] = {}
        self._written: StackState | None = None
        self._unwritten = ""  # why the state could not be written at the last look
        self._started_at = now
        self._stopping = False

    @property
    def state(self) -> StackState:
        """What there is to say now."""
        pid = os.getpid()
        return StackState(
            pid=pid,
            identity=identity(pid) or "",
            started_at=self._started_at,
            parts=(*self._outside, *(child.status for child in self._children)),
            settings=dict(self.settings),
            problems=dict(self._problems),
        )

    def run(self) -> None:
        """Supervises until ``stop`` is called or SIGTERM or SIGINT comes; every part has ended when it returns."""
        with _signals(self.stop) as wake:
            self._write()
            try:
                while not self._stopping:
                    self.tick()
                    busy = any(child.status.state in _COMING for child in self._children)
                    select.select([wake], [], [], _TICK_STARTING if busy else _TICK_STEADY)
                    _drain(wake)
            finally:
                self.end()

    def stop(self) -> None:
        """Asks ``run`` to end everything and return."""
        self._stopping = True

    def tick(self) -> None:
        """One look at every part, one turn of every duty."""
        for child in self._children:
            self._advance(child)
            if child.log is not None:
                with contextlib.suppress(OSError):  # a disk that is gone ends no part
                    bound(child.log, child.part.log, LOG_BYTES)
        now = time.time()
        for duty in self.duties:
            try:
                duty.do(now)
                problem = ""
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
                if problem != self._problems.get(duty.name):
                    log.exception("duty %s failed", duty.name)
            if problem:
                self._problems[duty.name] = problem
            elif self._problems.pop(duty.name, None):
                log.info("duty %s works again", duty.name)
        self._write()

    def end(self) -> None:
        """Ends every part: once those that drain have, SIGTERM to all at once, SIGKILL to what is left, also to what parts left
        behind."""
        for child in self._children:
            if child.popen is not None and child.part.drain is not None:
                try:
                    child.part.drain()
                except Exception:
                    log.exception("%s does not drain", child.part.name)
        for child in self._children:
            if child.popen is not None:
                part_process.kill_group(child.popen.pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        for child in self._children:
            if child.popen is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.popen.wait(max(0.05, deadline - time.monotonic()))
                part_process.kill_group(child.popen.pid, signal.SIGKILL)
                child.popen.wait()
                child.popen = None
            if child.log is not None:
                child.log.close()
                child.log = None
            self._set(child, PartState.STOPPED, pid=None, identity=None, next_try=None)
        part_process.end(part_process.marked(self.home, [part.name for part in self.parts]), grace=1.0)
        self._write()

    def _advance(self, child: _Child) -> None:
        now = time.monotonic()
        match child.status.state:
            case PartState.WAITING if self._may_start(child.part):
                self._start(child)
            case PartState.BACKOFF if now >= child.next_try:
                self._start(child, restarts=child.status.restarts + 1)
            case PartState.STARTING | PartState.READY:
                self._look(child, now)
            case _:
                return

    def _look(self, child: _Child, now: float) -> None:
        assert child.popen is not None
        code = child.popen.poll()
        if code is not None:
            if child.part.once and code == 0:
                child.popen = None
                self._set(child, PartState.DONE, pid=None, identity=None, last_exit="exit 0")
            else:
                self._failed(child, part_process.describe_exit(code))
        elif child.status.state == PartState.READY:
            if child.failures and now - child.started > _STEADY_SECONDS:
                child.failures = 0
        elif not child.part.once and child.part.healthy():
            self._set(child, PartState.READY)
        elif now - child.started > child.part.start_seconds:
            self._failed(child, f"not ready in {child.part.start_seconds:g} s")

    def _may_start(self, part: Part) -> bool:
        up = {status.name for status in self.state.parts if status.up}
        return up.issuperset(part.after)

    def _start(self, child: _Child, **changes: int) -> None:
        if child.log is not None:
            child.log.close()
        child.log = open_log(child.part.log, f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(child.part.command)}")
        try:
            child.popen = part_process.start(child.part, self.home, child.log)
        except (OSError, subprocess.SubprocessError) as error:
            child.popen = None
            self._failed(child, f"cannot be started: {error}")
            return
        child.started = time.monotonic()
        pid = child.popen.pid
        self._set(child, PartState.STARTING, pid=pid, identity=identity(pid), next_try=None, **changes)

    def _failed(self, child: _Child, reason: str) -> None:
        """Ends what is left of the part and plans its next start."""
        if child.popen is not None:
            if not child.part.spares_children or child.popen.poll() is None:
                part_process.kill_group(child.popen.pid, signal.SIGKILL)
            child.popen.wait()
            child.popen = None
        wait = min(_BACKOFF_MOST, _BACKOFF_FIRST * 2**child.failures)
        child.failures += 1
        child.next_try = time.monotonic() + wait
        log.warning("%s ended (%s); next try in %.1f s", child.part.name, reason, wait)
        self._set(
            child,
            PartState.BACKOFF,
            pid=None,
            identity=None,
            last_exit=reason,
            next_try=time.time() + wait,
        )

    def _set(self, child: _Child, state: PartState, **changes: object) -> None:
        if state != child.status.state:
            log.info("%s: %s", child.part.name, state.value)
            changes["since"] = time.time()
        child.status = replace(child.status, state=state, **changes)  # type: ignore[arg-type]

    def _write(self) -> None:
        state = self.state
        if state == self._written:
            return
        try:
            write_state(self.folder, state)
        except OSError as error:  # a full disk must not end the parts; the next tick tries again
            if str(error) != self._unwritten:
                log.error("state cannot be written to %s: %s", self.folder, error)
            self._unwritten = str(error)
            return
        self._written, self._unwritten = state, ""


def _status(part: Part, state: PartState, **values: object) -> PartStatus:
    return PartStatus(part.name, state, url=part.url, **values)  # type: ignore[arg-type]


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[socket.socket]:
    """SIGTERM and SIGINT call *stop*; any of them, and SIGCHLD, makes the socket readable."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    handlers = {
        signal.SIGTERM: lambda *_: stop(),
        signal.SIGINT: lambda *_: stop(),
        signal.SIGCHLD: lambda *_: None,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        reader.close()
        writer.close()


def _drain(wake: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while wake.recv(4096):
            pass
