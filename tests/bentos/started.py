"""Servers started by ``python -m bentos.serving.start``, and the versions on a real registry that they pull or follow."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

from bentos.serving.fetch.artifact_tree import tree_digest
from tests.bentos.servers import ROOT, Ended

BODY = {"dataframe_split": {"columns": ["a", "b", "c"], "data": [[0.2, 0.4, 0.6]]}}
UV = Path(sys.executable).parent / "uv"
UV_CACHE = subprocess.run([UV, "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()

# In a process of its own: mlflow keeps the tracking URI, the experiment and the run in globals.
REGISTER = """
import sys
from importlib.metadata import version as installed
from pathlib import Path
import mlflow
from sklearn.linear_model import LinearRegression
from tests.bentos.saved import numbers, save

frame = numbers()
pins = [f"scikit-learn=={installed('scikit-learn')}", f"numpy=={installed('numpy')}"]
client = mlflow.MlflowClient()
client.create_registered_model("started")
with mlflow.start_run() as run:
    for version, more, data in [
        ("1", [], frame),
        ("2", ["idna==3.9"], frame),
        ("3", ["scipy<1.6"], frame),
        ("4", [], frame.assign(d=0.0)),
        ("5", [], frame),
        ("6", [], frame),
    ]:
        model = LinearRegression().fit(data, data.a * 0 + int(version))
        options = {"serialization_format": "cloudpickle", "pip_requirements": pins + more}
        folder = save("sklearn", model, Path(sys.argv[1]) / version, data, model.predict(data), **options)
        if version == "5":
            (folder / "model.pkl").write_bytes(b"broken")
        mlflow.log_artifacts(str(folder), version)
        client.create_model_version("started", f"runs:/{run.info.run_id}/{version}", run.info.run_id)
"""


@dataclass(frozen=True)
class Versions:
    """Versions 1, 2 and 6 answer their own number, and 2 needs other packages; 3 asks for what cannot be, 4 for a column more,
    5 has a corrupt model file. *tree* is version 1's."""

    url: str
    tree: Path
    digest: str

    @staticmethod
    def register(url: str, folder: Path) -> Versions:
        """Registers them at the MLflow server *url*; *folder* is for their files."""
        environment = {**os.environ, "MLFLOW_TRACKING_URI": url, "MLFLOW_DISABLE_TELEMETRY": "true"}
        command = [sys.executable, "-c", REGISTER, str(folder)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-2000:]
        return Versions(url, folder / "1", tree_digest(folder / "1"))

    def set_alias(self, version: str) -> None:
        url = f"{self.url}/api/2.0/mlflow/registered-models/alias"
        httpx.post(url, json={"name": "started", "alias": "live", "version": version}).raise_for_status()


@dataclass
class Started(Ended):
    """A started process on the unix socket *socket*; *log* is what it wrote."""

    socket: Path
    log: Path

    def client(self) -> httpx.Client:
        return httpx.Client(transport=httpx.HTTPTransport(uds=str(self.socket)), base_url="http://server", timeout=20)

    def state(self) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(self.socket)) != 0:
                return {"ready": False}
        with self.client() as client:
            found: dict[str, Any] = client.get("/readyz").json()
            return found

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 280) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"it ended with {self.process.poll()}:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}\n{self.log.read_text()}"
            time.sleep(0.05)

    def ready(self) -> Self:
        self.until(lambda: self.state()["ready"], "ready")
        return self


def start(python: Path, where: Path, *arguments: object, **environment: str) -> Started:
    """Starts ``python -m bentos.serving.start`` with its socket and its log in *where*."""
    where.mkdir(exist_ok=True)
    command = [str(python), "-m", "bentos.serving.start", *map(str, arguments), "--uds", str(where / "server.sock")]
    command += ["--drain-seconds", "0.2"]
    own = {"PYTHONPATH": str(ROOT), "UV_CACHE_DIR": UV_CACHE, **environment}
    with (where / "log").open("ab") as log:
        process = subprocess.Popen(command, cwd=where, env={**os.environ, **own}, stdout=log, stderr=log)
    return Started(process, where / "server.sock", where / "log")


def ended(started: Started, seconds: float = 60) -> tuple[int, str]:
    """Exit code and last line of a process that does not serve."""
    with started:
        code = started.process.wait(seconds)
        return code, started.log.read_text().strip().splitlines()[-1]


def pinned(versions: Versions, models: Path, **changed: str) -> list[object]:
    given = {"model": "started", "version": "1", "digest": versions.digest, "registry": versions.url, **changed}
    return ["--models", models, *(text for name, value in given.items() for text in (f"--{name}", value))]


def answers(started: Started) -> tuple[str, str, int]:
    """Model, version and prediction of one answer."""
    with started.client() as client:
        found = client.post("/invocations", json=BODY)
        number = round(found.json()["predictions"][0])
        return found.headers["x-shipway-model"], found.headers["x-shipway-version"], number


def command_of(process: subprocess.Popen[bytes]) -> str:
    return Path(f"/proc/{process.pid}/cmdline").read_text().replace("\0", " ")
