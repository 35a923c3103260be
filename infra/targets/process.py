"""ProcessTarget: one kept server process per version, on a unix socket in a private folder.

Everything that is known lies on disk, so that any process finds the deployments again:

    <folder>/<name>/deployment.json   the spec, and whether it should run
    <folder>/<name>/spec.json         what the keeper starts
    <folder>/<name>/state.json        what the keeper says of itself and its server
    <folder>/<name>/server.log        what the server wrote, and server.log.1 before it
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from infra.targets import keeper
from infra.targets.interface import (
    Address,
    Deployment,
    DeploymentSpec,
    PermanentTargetError,
    State,
    TransientTargetError,
)
from infra.targets.sockets import socket_path

LOG_BYTES = 5 * 1024 * 1024
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE")
SINGLE_THREADED = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
PROBE_SECONDS = 0.5
KILL_SECONDS = 3.0


class ProcessTarget:
    """The target seam over local processes.

    *folder* holds the deployments, *segments* the prediction log (``<segments>/<model>/<version>``). *environment* is
    added to every server's; of the caller's own only a few harmless variables are handed on, never its secrets.
    """

    def __init__(self, folder: Path, *, segments: Path, environment: Mapping[str, str] | None = None) -> None:
        self._folder = folder.absolute()
        self._segments = segments.absolute()
        self._environment = dict(environment or {})

    def ensure(self, spec: DeploymentSpec) -> Deployment:
        """Starts *spec* unless it runs. PermanentTargetError where another spec runs under the same name."""
        with self._lock(spec.name):
            home = self._home(spec.name)
            wanted: dict[str, Any] = {
                "spec": {**asdict(spec), "environment": dict(spec.environment)},
                "wanted": "running",
            }
            known = _read(home / "deployment.json")
            state = self._live_state(spec.name)
            if state is not None and known is not None:
                if known["spec"] != wanted["spec"]:
                    raise PermanentTargetError(
                        f"deployment {spec.name} runs from another spec ({_differences(known['spec'], wanted['spec'])}). Remove it first."
                    )
                if known["wanted"] == "running" and state["phase"] == "running":
                    return self._deployment(spec.name)
            self._kill(spec.name)
            self._start(spec, wanted)
            return self._deployment(spec.name)

    def ready(self, name: str, timeout: float) -> Deployment:
        """Waits for READY; TransientTargetError when it is still starting after *timeout* seconds."""
        deadline = time.monotonic() + timeout
        while True:
            if not (self._home(name) / "deployment.json").exists():
                raise PermanentTargetError(
                    f"no deployment {name} under {self._folder}. Call ensure with its spec first."
                )
            deployment = self._deployment(name)
            if deployment.state is State.READY:
                return deployment
            if deployment.state is State.FAILED:
                raise PermanentTargetError(
                    f"deployment {name} failed: {deployment.reason}. Its log ends:\n{self.logs(name, 30)}"
                )
            if time.monotonic() >= deadline:
                raise TransientTargetError(
                    f"deployment {name} is {deployment.state} and not ready after {timeout:g} s. Its log ends:\n{self.logs(name, 10)}"
                )
            time.sleep(0.03)

    def drain(self, name: str, timeout: float) -> None:
        """SIGTERM to the server through its keeper, and a wait; it is not started again by ``restore``."""
        with self._lock(name):
            path = self._home(name) / "deployment.json"
            known = _read(path)
            if known is None:
                return
            _write(path, {**known, "wanted": "stopped"})
            self._signal_keeper(name, signal.SIGTERM)
        deadline = time.monotonic() + timeout
        while self._live_state(name) is not None and time.monotonic() < deadline:
            time.sleep(0.03)

    def remove(self, name: str) -> None:
        """Kills keeper and server, and deletes the folder and the socket."""
        with self._lock(name):
            home = self._home(name)
            spec = _read(home / "spec.json")
            self._kill(name)
            if spec is not None:
                sock = Path(spec["socket"])
                sock.unlink(missing_ok=True)
                if sock.parent != home:
                    shutil.rmtree(sock.parent, ignore_errors=True)
            if home.exists():
                shutil.rmtree(home)
            self._lock_path(name).unlink(missing_ok=True)

    def list(self) -> Sequence[Deployment]:
        """Every deployment on disk, each with what is really alive."""
        return [self._deployment(name) for name in self._names()]

    def logs(self, name: str, lines: int = 100) -> str:
        """The last lines, the rotated file included."""
        text = ""
        for part in ("server.log.1", "server.log"):
            path = self._home(name) / part
            if path.exists():
                text += path.read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def restore(self) -> Sequence[Deployment]:
        """Starts every deployment that should run and does not; gives those it started."""
        started = []
        for name in self._names():
            with self._lock(name):
                known = _read(self._home(name) / "deployment.json")
                if known is None or known["wanted"] != "running" or self._live_state(name) is not None:
                    continue
                self._kill(name)
                self._start(DeploymentSpec(**known["spec"]), known)
                started.append(self._deployment(name))
        return started

    def stop_all(self, timeout: float = 10.0) -> None:
        """Stops every process, letting requests finish for *timeout* seconds in all; ``restore`` starts them again."""
        names = self._names()
        for name in names:
            self._signal_keeper(name, signal.SIGTERM)
        deadline = time.monotonic() + timeout
        while any(self._live_state(name) for name in names) and time.monotonic() < deadline:
            time.sleep(0.03)
        for name in names:
            self._kill(name)

    def _start(self, spec: DeploymentSpec, wanted: dict[str, Any]) -> None:
        home = self._home(spec.name)
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        home.chmod(0o700)
        segments = self._segments / spec.model / spec.version
        segments.mkdir(parents=True, exist_ok=True)
        sock = socket_path(home)
        command = [spec.python, "-m", "bentos.launcher", "--bento", spec.bento, "--uds", str(sock)]
        command += ["--segments", str(segments), "--deployment", spec.name]
        environment = {key: os.environ[key] for key in INHERITED if key in os.environ}
        environment |= SINGLE_THREADED | self._environment | dict(spec.environment)
        environment |= {"PYTHONPATH": f"{spec.bento}/src", "PYTHONUNBUFFERED": "1", "PYTHONNOUSERSITE": "1"}
        (home / "state.json").unlink(missing_ok=True)
        _write(home / "deployment.json", wanted)
        _write(
            home / "spec.json",
            {"command": command, "environment": environment, "socket": str(sock), "log_bytes": LOG_BYTES},
        )
        with (home / "server.log").open("ab") as log:
            subprocess.run(
                [sys.executable, "-I", "-S", keeper.__file__, str(home)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                check=True,
            )
        deadline = time.monotonic() + 10.0
        while _read(home / "state.json") is None:
            if time.monotonic() > deadline:
                raise TransientTargetError(f"keeper of {spec.name} did not start in 10 s:\n{self.logs(spec.name, 10)}")
            time.sleep(0.01)

    def _deployment(self, name: str) -> Deployment:
        home = self._home(name)
        known, spec = _read(home / "deployment.json"), _read(home / "spec.json")
        if known is None or spec is None:
            raise PermanentTargetError(f"no deployment {name} under {self._folder}. Call ensure with its spec first.")
        last = _read(home / "state.json") or {"restarts": 0, "reason": "", "phase": "stopped"}
        state, reason = self._judge(name, known["wanted"], spec["socket"], last)
        values = known["spec"]
        address = Address(uds=spec["socket"])
        return Deployment(
            name, values["model"], values["version"], values["bento_digest"], address, state, last["restarts"], reason
        )

    def _judge(self, name: str, wanted: str, sock: str, last: Mapping[str, Any]) -> tuple[State, str]:
        alive = self._live_state(name)
        if wanted == "stopped":
            return State.DRAINING, "" if alive else "drained: its server has stopped"
        if alive is None:
            if last["phase"] == "failed":
                return State.FAILED, last["reason"]
            return State.FAILED, "its keeper does not run; restore() or ensure() starts it again"
        if alive["phase"] == "draining":
            return State.DRAINING, ""
        if keeper.answers_ready(sock, PROBE_SECONDS):
            return State.READY, ""
        return State.STARTING, last["reason"]

    def _live_state(self, name: str) -> dict[str, Any] | None:
        """What the keeper wrote, if that very keeper still runs."""
        state = _read(self._home(name) / "state.json")
        return state if state is not None and _runs(state["keeper"]) else None

    def _signal_keeper(self, name: str, number: int) -> None:
        state = self._live_state(name)
        if state is not None:
            _send(state["keeper"], number)

    def _kill(self, name: str) -> None:
        """Ends keeper and server for good; the server dies with its keeper, and is killed should it not."""
        self._signal_keeper(name, signal.SIGKILL)
        deadline = time.monotonic() + KILL_SECONDS
        while True:
            state = _read(self._home(name) / "state.json") or {}
            left = [who for who in (state.get("keeper"), state.get("server")) if who is not None and _runs(who)]
            if not left:
                return
            if time.monotonic() > deadline:
                raise TransientTargetError(f"deployment {name}: process {left[0]['pid']} does not die. Try again.")
            for who in left:
                if _runs(who):  # both lead a session of their own: their children end with them
                    with suppress(ProcessLookupError):
                        os.killpg(who["pid"], signal.SIGKILL)
            time.sleep(0.01)

    def _names(self) -> Sequence[str]:
        found = [_read(path) for path in self._folder.glob("*/deployment.json")]
        return sorted(DeploymentSpec(**known["spec"]).name for known in found if known is not None)

    def _home(self, name: str) -> Path:
        return self._folder / quote(name, safe="")

    def _lock_path(self, name: str) -> Path:
        return self._folder / f".{quote(name, safe='')}.lock"

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        """One process at a time changes a deployment. The file may vanish with a removed deployment: then look again."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._lock_path(name)
        while True:
            with path.open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                    yield
                    return


def _runs(who: Mapping[str, Any]) -> bool:
    return who["started"] is not None and keeper.started_at(who["pid"]) == who["started"]


def _send(who: Mapping[str, Any], number: int) -> None:
    if _runs(who):
        with suppress(ProcessLookupError):  # it ended just now, which is as good
            os.kill(who["pid"], number)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        values: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return values


def _write(path: Path, values: Mapping[str, Any]) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps(values))
    scratch.replace(path)


def _differences(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{key}: {known.get(key)!r} is not {wanted[key]!r}" for key in wanted if known.get(key) != wanted[key]
    )
