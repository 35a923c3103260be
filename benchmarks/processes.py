"""The processes of one bench: started, measured, and ended with everything that they started, whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from bentos.serving.threads import ONE_THREAD

END_SECONDS = 5.0


class ServerEndedError(Exception):
    """A server that ended, or was not ready in time; the message ends with its log."""


class Processes:
    """Starts processes in sessions of their own, so that Ctrl-C reaches only the bench, which then ends them all.

    *folder* holds their logs and their temporary files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: dict[int, tuple[subprocess.Popen[bytes], Path]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
        """Starts *command*, one thread a numeric library; its pid."""
        everything = {**os.environ, "TMPDIR": str(self._folder), **ONE_THREAD, **(environment or {})}
        log = self._folder / f"{name}-{len(self._started)}.log"
        with log.open("wb") as file:
            started = subprocess.Popen(
                list(command), stdout=file, stderr=file, env=everything, cwd=self._folder, start_new_session=True
            )
        self._started[started.pid] = started, log
        return started.pid

    def wait(self, pid: int, ready: Callable[[], bool], seconds: float = 120.0) -> None:
        """Waits until *ready*, looking every 10 ms. Raises ServerEndedError."""
        process, log = self._started[pid]
        deadline = time.monotonic() + seconds
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                what = "was not ready in time" if process.poll() is None else f"ended with {process.returncode}"
                raise ServerEndedError(f"{log.stem} {what}:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.01)

    def end(self, pids: Iterable[int] | None = None) -> None:
        """Ends *pids* (None: all that were started) and what they started: SIGTERM, and SIGKILL after END_SECONDS."""
        mine = [pid for pid in (list(self._started) if pids is None else pids) if pid in self._started]
        trees = [process for pid in mine for process in tree(pid)]
        for pid in mine:
            with suppress(ProcessLookupError):
                self._started[pid][0].terminate()
        _, alive = psutil.wait_procs(trees, timeout=END_SECONDS)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for pid in mine:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # its session: what lost its parent before we looked
            self._started.pop(pid)[0].wait()


def tree(pid: int) -> list[psutil.Process]:
    """The process and everything below it that is alive."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor seconds that the trees of *pids* have used so far."""
    total = 0.0
    for pid in pids:
        for process in tree(pid):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
    return total


def resident_mb(pids: Iterable[int]) -> float:
    """Memory of the trees of *pids* in MB (10^6 bytes): each process' proportional share (PSS)."""
    total = 0
    for pid in pids:
        for process in tree(pid):
            with suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
    return total / 1e6


CORES = sorted(os.sched_getaffinity(0))
SERVERS_CORE = {CORES[0]}
"""The core of every server that is measured alone …"""

CLIENTS_CORES = set(CORES[1:]) or SERVERS_CORE
"""… and those of the generator, so that the kernel never puts one behind the other on the same core for milliseconds."""


def pin(pids: Iterable[int], cores: set[int]) -> None:
    """Lets every thread of the trees of *pids*, and whatever they start from now on, run on *cores* alone."""
    for pid in pids:
        for process in tree(pid):
            with suppress(psutil.NoSuchProcess):
                for thread in process.threads():
                    with suppress(ProcessLookupError):
                        os.sched_setaffinity(thread.id, cores)


def beside_the_server() -> None:
    """Puts this process on the generator's cores; for a child before it is what it will be."""
    os.sched_setaffinity(0, CLIENTS_CORES)


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
