"""Processes of the stack: started so that they die with their supervisor, found again after anything was killed."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable
from io import FileIO
from pathlib import Path

import psutil

from infra.processes import KEEPER, MARK, mark
from infra.stack.part import Part

_PR_SET_PDEATHSIG = 1
_LINUX = sys.platform.startswith("linux")


def start(part: Part, home: Path, log: FileIO) -> subprocess.Popen[bytes]:
    """Starts *part* in a session of its own, its output appended to *log*.

    Raises OSError when the command cannot be started. Call it from a thread that lives as long as the supervisor: the
    kernel sends ``death_signal`` when that thread ends.
    """
    return subprocess.Popen(
        part.command,
        cwd=part.cwd,
        env={**part.environment, MARK: mark(home, part.name)},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_dies_with_parent(part.death_signal),
    )


def _dies_with_parent(death_signal: int) -> Callable[[], None] | None:
    if not _LINUX:
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def ask_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:  # the supervisor died in between
            os._exit(1)

    return ask_kernel


def kill_group(pid: int, number: int) -> None:
    """Sends signal *number* to the session that *pid* leads; a group that is gone is no error."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return
    except PermissionError:  # macOS says this of a group of zombies
        return


def marked(home: Path, parts: Collection[str] | None = None) -> list[psutil.Process]:
    """Live processes that carry the mark of the stack at *home*: of *parts*, or of any part."""
    wanted = None if parts is None else {mark(home, part) for part in parts}
    prefix = mark(home, "")
    found = []
    for process in psutil.process_iter():
        try:
            value = process.environ().get(MARK, "") if process.pid != os.getpid() else ""
            if (value in wanted if wanted is not None else value.startswith(prefix)) and process.is_running():
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue  # gone meanwhile, or another user's
    return found


def is_keeper(process: psutil.Process) -> bool:
    """Whether *process* keeps a model server, which ends as its target says."""
    try:
        return str(process.environ().get(MARK, "")).endswith(f"|{KEEPER}")
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False


def end(processes: Iterable[psutil.Process], grace: float) -> list[int]:
    """SIGTERM to all, SIGKILL to what is left after *grace* seconds; the pids that had to be killed."""
    waiting = list(processes)
    for process in waiting:
        _signal(process, signal.SIGTERM)
    _, left = psutil.wait_procs(waiting, timeout=grace)
    for process in left:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(left, timeout=5)
    return [process.pid for process in left]


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def describe_exit(code: int) -> str:
    """``exit 1`` or ``signal SIGKILL``."""
    if code >= 0:
        return f"exit {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def tail(path: Path, lines: int = 15) -> str:
    """The last *lines* lines of a log; "" when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 64 * 1024))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
