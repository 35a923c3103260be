"""Processes of the stack: started so that they die with their supervisor, found again after anything was killed."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import psutil

from infra.stack.part import Part

MARK = "_SHIPWAY_PART"  # in the environment of every part: "<home>|<part>"; children inherit it
_PR_SET_PDEATHSIG = 1
_LINUX = sys.platform.startswith("linux")
_LOG_LIMIT = 20 * 1024 * 1024


def start(part: Part, home: Path) -> subprocess.Popen[bytes]:
    """Starts *part* in a session of its own, its output appended to its log.

    Raises OSError when the command or the log cannot be opened. Call it from a thread that lives as long as the
    supervisor: the kernel sends ``death_signal`` when that thread ends.
    """
    part.log.parent.mkdir(parents=True, exist_ok=True)
    if part.log.exists() and part.log.stat().st_size > _LOG_LIMIT:
        part.log.replace(part.log.with_suffix(".log.1"))
    with part.log.open("ab") as log:
        log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(part.command)}\n".encode())
        log.flush()
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


def mark(home: Path, part: str) -> str:
    """The value of MARK for *part* of the stack at *home*."""
    return f"{home}|{part}"


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
