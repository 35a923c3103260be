"""One identity of a process, for everyone who writes a pid down, and the mark of whose it is. Standard library only: the keeper loads it by itself."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

MARK = "_SHIPWAY_PART"
"""In the environment of every process of a stack: "<home>|<part>". Children inherit it."""

KEEPER = "keeper"
"""The part of keepers: they outlive whoever started them, and end when their target says so."""


def mark(home: Path, part: str) -> str:
    """The value of MARK for *part* of the stack at *home*."""
    return f"{home}|{part}"


def as_keeper(environ: Mapping[str, str]) -> dict[str, str]:
    """*environ* with the mark of a keeper of the same stack, where it has one."""
    home = environ.get(MARK, "").rpartition("|")[0]
    return {**environ, **({MARK: f"{home}|{KEEPER}"} if home else {})}


def identity(pid: int) -> str | None:
    """What, with *pid*, names one process for ever, although pids are used again; None where it does not run.

    The boot and the clock ticks since then at which it was started (proc_pid_stat(5), fields 3 and 22), which a changed
    clock does not move; without /proc, what ps(1) says of its start. A zombie does not run.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self/stat").exists() else _said_by_ps(pid)
    return None if fields[0] in ("Z", "X") else f"{boot}/{fields[19]}"


def runs(pid: int | None, named: str | None) -> bool:
    """Whether *pid* is still the process that ``identity`` named so."""
    return pid is not None and bool(named) and identity(pid) == named


def _said_by_ps(pid: int) -> str | None:
    done = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, started = done.stdout.strip().partition(" ")
    return started.strip() if started and not state.startswith("Z") else None
