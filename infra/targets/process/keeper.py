"""The keeper: a tiny process that keeps one server running. Standard library only.

    python -I -S -c KEEP <root> <folder>

*folder* holds ``spec.json`` {"command", "environment", "socket", "log_bytes"}. The keeper detaches from whoever started it,
starts the command, restarts it with backoff when it dies, and writes what it knows to ``state.json``. SIGTERM stops the
server (SIGTERM, so that it finishes what is in flight) and then the keeper. The server dies with a killed keeper.

Log and state are housekeeping: where they are removed or cannot be written, the server goes on, and is started again, without.
A keeper whose folder another keeper has taken stops.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import FrameType
from typing import IO, Any

from infra.log_files import bound, open_log
from infra.processes import identity
from infra.targets.readiness import answers_ready

GIVE_UP_AFTER = 3  # deaths before the server was ever ready
LONGEST_BACKOFF_SECONDS = 5.0
SETTLED_SECONDS = 10.0  # a server that lived this long starts again at once
PR_SET_PDEATHSIG = 1  # prctl(2)
KEEP = (
    "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path;"
    " from infra.targets.process.keeper import main; main(Path(sys.argv[2]))"
)
"""The program that keeps: without site-packages, so that it stays small; *root* is the folder that holds ``infra``."""


class Keeper:
    """Keeps the server of one folder."""

    def __init__(self, folder: Path, lock: IO[str]) -> None:
        self.folder = folder
        self.lock = lock  # of keeper.lock, held
        self.spec: dict[str, Any] = json.loads((folder / "spec.json").read_text())
        self.log = folder / "server.log"
        self.server: subprocess.Popen[bytes] | None = None
        self.phase = "running"
        self.was_ready = False
        self.restarts = 0
        self.reason = ""
        self.stopping = False
        self.reported = False

    def run(self) -> None:
        """Until told to stop, or until the server has died too often before it was ever ready."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        failures = 0
        while not self.told_to_stop():
            began = time.monotonic()
            code = self._serve_once()
            if self.told_to_stop():
                break
            failures = 1 if time.monotonic() - began > SETTLED_SECONDS else failures + 1
            self.reason = f"the server ended with {code}" if isinstance(code, str) else f"the server exited with {code}"
            self.restarts += 1
            if not self.was_ready and self.restarts >= GIVE_UP_AFTER:
                self.phase = "failed"
                self.reason += f", {self.restarts} times before it was ever ready"
                break
            self._report()
            self._pause(min(LONGEST_BACKOFF_SECONDS, 0.1 * 2 ** (failures - 1)))
        if self.phase != "failed":
            self.phase = "stopped"
        self._report()

    def _serve_once(self) -> int | str:
        """Starts the server and waits for its end: its exit code, or the name of the signal that ended it."""
        socket = Path(self.spec["socket"])
        with suppress(OSError):  # what the server cannot do without, it says itself
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            socket.unlink(missing_ok=True)
            self._hold_again()
        keeper = os.getpid()

        def die_with_keeper() -> None:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != keeper:
                os._exit(1)

        with open_log(self.log, f"keeper: starting {self.spec['command'][0]}") as log:
            try:
                self.server = subprocess.Popen(
                    self.spec["command"],
                    env=self.spec["environment"],
                    cwd=self.folder if self.folder.is_dir() else "/",
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=die_with_keeper,  # safe: the keeper has one thread
                )
            except OSError as error:
                with suppress(OSError):
                    log.write(f"keeper: cannot start {self.spec['command']}: {error}\n".encode())
                return f"{type(error).__name__} at its start: {error}"
            self._report()
            return self._watch(self.server, log)

    def _watch(self, server: subprocess.Popen[bytes], log: FileIO) -> int | str:
        """Waits for the server's end, and looks after it meanwhile."""
        while server.poll() is None:
            if self.told_to_stop() and self.phase != "draining":
                self.phase = "draining"
                self._report()
                server.terminate()
            elif not self.was_ready and answers_ready(self.spec["socket"], 0.2):
                self.was_ready = True
                self._report()
            self._keep_house(log)
            self._pause(0.05 if self.told_to_stop() or not self.was_ready else 0.2)
        self.server = None
        return server.returncode if server.returncode >= 0 else signal.Signals(-server.returncode).name

    def told_to_stop(self) -> bool:
        """Whether SIGTERM has come."""
        return self.stopping

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True

    def _pause(self, seconds: float) -> None:
        """Sleeps in slices, so that an order to stop is obeyed soon (a signal handler does not end time.sleep)."""
        until = time.monotonic() + seconds
        before = self.told_to_stop()
        while time.monotonic() < until and self.told_to_stop() == before:
            if self.server is not None and self.server.poll() is not None:
                return
            time.sleep(0.02)

    def _keep_house(self, log: FileIO) -> None:
        """At most two files of ``log_bytes``, a state that is told, and one keeper a folder."""
        with suppress(OSError):
            bound(log, self.log, self.spec["log_bytes"])
        with suppress(OSError):  # the folder was removed
            if not self._holds():
                self.stopping = True
            elif not self.reported or not (self.folder / "state.json").exists():
                self._report()

    def _holds(self) -> bool:
        """Whether the lock of the folder is this keeper's. Raises OSError where there is none."""
        return os.path.samestat((self.folder / "keeper.lock").stat(), os.fstat(self.lock.fileno()))

    def _hold_again(self) -> None:
        """Takes the lock of a folder that was made again, unless another keeper has it."""
        lock = hold(self.folder) if not (self.folder / "keeper.lock").exists() else None
        if lock is not None:
            self.lock.close()
            self.lock = lock

    def _report(self) -> None:
        """Writes what is known; tried again where that fails. A removed folder is not made again for it."""

        def who(pid: int) -> dict[str, Any]:
            return {"pid": pid, "identity": identity(pid)}

        state = {
            "keeper": who(os.getpid()),
            "server": who(self.server.pid) if self.server is not None else None,
            "phase": self.phase,
            "was_ready": self.was_ready,
            "restarts": self.restarts,
            "reason": self.reason,
        }
        scratch = self.folder / ".state.json"
        self.reported = False
        with suppress(OSError):
            if self._holds():
                scratch.write_text(json.dumps(state))
                scratch.replace(self.folder / "state.json")
                self.reported = True


def main(folder: Path) -> None:
    """Detaches, makes sure of being the folder's only keeper, and keeps."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.umask(0o077)
    lock = hold(folder)
    if lock is not None:
        Keeper(folder, lock).run()


def hold(folder: Path) -> IO[str] | None:
    """The lock of the one keeper of *folder*, held while the file is open; None where another has it. Raises OSError."""
    lock = (folder / "keeper.lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock
