"""ProcessTarget: one kept server process per version, on a unix socket in a private folder.

Everything that is known lies on disk, so that any process finds the deployments again:

    <folder>/<name>/deployment.json   the spec, and whether it should run
    <folder>/<name>/spec.json         what the keeper starts
    <folder>/<name>/state.json        what the keeper says of itself and its server
    <folder>/<name>/server.log        what the server wrote, and server.log.1 before it
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bentos.serving.files import private_folder
from bentos.serving.threads import ONE_THREAD
from infra.log_files import open_log
from infra.processes import as_keeper, runs
from infra.targets.interface import (
    Address,
    Deployment,
    DeploymentSpec,
    PermanentTargetError,
    State,
    TransientTargetError,
)
from infra.targets.known_deployments import KnownDeployments, read_json, refuse_another, spec_of, values_of, write_json
from infra.targets.process.keeper import KEEP
from infra.targets.readiness import answers_ready
from infra.targets.sockets import socket_path
from infra.targets.waiting import until_ready

LOG_BYTES = 5 * 1024 * 1024
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE")
PROBE_SECONDS = 0.5
LOOK_SECONDS = 0.03
KILL_SECONDS = 3.0
ROOT = Path(__file__).resolve().parents[3]


class ProcessTarget:
    """The target seam over local processes.

    *folder* holds the deployments, *segments* the prediction log (``<segments>/<model>/<version>``). *environment* is
    added to every server's; of the caller's own only a few harmless variables are handed on, never its secrets.
    """

    def __init__(self, folder: Path, *, segments: Path, environment: Mapping[str, str] | None = None) -> None:
        self._records = KnownDeployments(folder)
        self._segments = segments.absolute()
        self._environment = dict(environment or {})

    def ensure(self, spec: DeploymentSpec) -> Deployment:
        """Starts *spec* unless it runs. PermanentTargetError where another spec runs under the same name."""
        with self._records.lock(spec.name):
            record = self._records.read(spec.name)
            state = self._live_state(spec.name)
            if state is not None and record is not None:
                refuse_another(record, spec)
                if record["wanted"] == "running" and state["phase"] == "running":
                    return self._deployment(spec.name)
            self._kill(spec.name)
            self._start(spec)
            return self._deployment(spec.name)

    def ready(self, name: str, timeout: float) -> Deployment:
        """Waits for READY; TransientTargetError when it is still starting after *timeout* seconds."""
        return until_ready(self._deployment, self.logs, name, timeout, every=LOOK_SECONDS)

    def drain(self, name: str, timeout: float) -> None:
        """SIGTERM to the server through its keeper, and a wait; it is not started again by ``restore``."""
        with self._records.lock(name):
            record = self._records.read(name)
            if record is None:
                return
            self._records.write(name, {**record, "wanted": "stopped"})
            self._signal_keeper(name, signal.SIGTERM)
        deadline = time.monotonic() + timeout
        while self._live_state(name) is not None and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)

    def remove(self, name: str) -> None:
        """Kills keeper and server, and deletes the folder and the socket."""
        with self._records.lock(name):
            home = self._records.home(name)
            started = read_json(home / "spec.json")
            self._kill(name)
            if started is not None:
                sock = Path(started["socket"])
                sock.unlink(missing_ok=True)
                if sock.parent != home:
                    shutil.rmtree(sock.parent, ignore_errors=True)
            self._records.forget(name)

    def list(self) -> Sequence[Deployment]:
        """Every deployment on disk, each with what is really alive."""
        return [self._deployment(name) for name in self._records.names()]

    def logs(self, name: str, lines: int = 100) -> str:
        """The last lines, the rotated file included."""
        text = ""
        for part in ("server.log.1", "server.log"):
            path = self._records.home(name) / part
            if path.exists():
                text += path.read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def restore(self) -> Sequence[Deployment]:
        """Starts every deployment that should run and does not; gives those it started."""
        started = []
        for name in self._records.names():
            with self._records.lock(name):
                record = self._records.read(name)
                if record is None or record["wanted"] != "running" or self._live_state(name) is not None:
                    continue
                self._kill(name)
                self._start(spec_of(record))
                started.append(self._deployment(name))
        return started

    def stop_all(self, timeout: float = 10.0) -> None:
        """Stops every process, letting requests finish for *timeout* seconds in all; ``restore`` starts them again."""
        names = self._records.names()
        for name in names:
            self._signal_keeper(name, signal.SIGTERM)
        deadline = time.monotonic() + timeout
        while any(self._live_state(name) for name in names) and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        for name in names:
            self._kill(name)

    def _start(self, spec: DeploymentSpec) -> None:
        home = self._records.home(spec.name)
        private_folder(home)
        segments = private_folder(self._segments / spec.model / spec.version)
        sock = socket_path(home)
        command = [spec.python, "-m", "bentos.serving.launcher", "--bento", spec.bento, "--uds", str(sock)]
        command += ["--segments", str(segments), "--deployment", spec.name, *spec.arguments]
        environment = {key: os.environ[key] for key in INHERITED if key in os.environ}
        environment |= ONE_THREAD | self._environment | dict(spec.environment)
        environment |= {"PYTHONPATH": f"{spec.bento}/src", "PYTHONUNBUFFERED": "1", "PYTHONNOUSERSITE": "1"}
        (home / "state.json").unlink(missing_ok=True)
        write_json(
            home / "spec.json",
            {"command": command, "environment": environment, "socket": str(sock), "log_bytes": LOG_BYTES},
        )
        self._records.write(
            spec.name, {"spec": values_of(spec), "wanted": "running"}
        )  # last: who lists finds all of it
        with open_log(home / "server.log") as log:
            subprocess.run(
                [sys.executable, "-I", "-S", "-c", KEEP, str(ROOT), str(home)],
                env=as_keeper(os.environ),  # the end of the flow or the part that starts it is not the server's
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                check=True,
            )
        deadline = time.monotonic() + 10.0
        while read_json(home / "state.json") is None:
            if time.monotonic() > deadline:
                raise TransientTargetError(f"keeper of {spec.name} did not start in 10 s:\n{self.logs(spec.name, 10)}")
            time.sleep(0.01)

    def _deployment(self, name: str) -> Deployment:
        home = self._records.home(name)
        record, started = self._records.known(name), read_json(home / "spec.json")
        if started is None:
            raise PermanentTargetError(
                f"deployment {name}: no {home / 'spec.json'}, it was never started. Call ensure with its spec."
            )
        last = read_json(home / "state.json") or {"restarts": 0, "reason": "", "phase": "stopped"}
        state, reason = self._judge(name, record["wanted"], started["socket"], last)
        spec, address = spec_of(record), Address(uds=started["socket"])
        return Deployment(name, spec.model, spec.version, spec.bento_digest, address, state, last["restarts"], reason)

    def _judge(self, name: str, wanted: str, sock: str, last: Mapping[str, Any]) -> tuple[State, str]:
        alive = self._live_state(name)
        if wanted == "stopped":
            return State.DRAINING, "" if alive else "drained: its server has stopped"
        if alive is None:
            if last["phase"] == "failed":
                return State.FAILED, last["reason"]
            return State.FAILED, "its keeper does not run; `shipway up` or its next release starts it again"
        if alive["phase"] == "draining":
            return State.DRAINING, ""
        if answers_ready(sock, PROBE_SECONDS):
            return State.READY, ""
        return State.STARTING, last["reason"]

    def _live_state(self, name: str) -> dict[str, Any] | None:
        """What the keeper wrote, if that very keeper still runs."""
        state = read_json(self._records.home(name) / "state.json")
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
            state = read_json(self._records.home(name) / "state.json") or {}
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


def _runs(who: Mapping[str, Any]) -> bool:
    return runs(who["pid"], who["identity"])


def _send(who: Mapping[str, Any], number: int) -> None:
    if _runs(who):
        with suppress(ProcessLookupError):  # it ended just now, which is as good
            os.kill(who["pid"], number)
