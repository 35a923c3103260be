"""The peers: an environment each, made once, and the command that serves a model in it.

Each has one worker and the settings that served fastest here of those its documentation names: MLServer in one process;
LitServe with its fast queue; BentoML with a coroutine. ``mlserver-batching`` is MLServer with its adaptive batching set to
exactly this bench's eight connections.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.load import CONNECTIONS
from benchmarks.models import BenchModel
from benchmarks.processes import Processes, free_port
from benchmarks.protocols import SCORING, TYPED, V1, V2
from benchmarks.servers import Server

PEERS = ("mlflow", "mlserver", "kserve", "litserve", "bentoml")
TUNED = ("mlserver-batching",)
"""Peers with settings made for this very load."""

FOLDER = Path(__file__).parent / "peers"
TELEMETRY = {"BENTOML_DO_NOT_TRACK": "True", "MLFLOW_DISABLE_TELEMETRY": "true"}


class PeerEnvironmentError(Exception):
    """A peer's environment that cannot be made; the message is uv's."""


class Peers:
    """The peers' environments below *envs*."""

    def __init__(self, envs: Path) -> None:
        self._envs = envs.absolute()

    def ensure(self, peer: str) -> None:
        """Makes the environment of *peer*, unless it is there as its list says. Raises PeerEnvironmentError."""
        wanted = (FOLDER / f"{peer}.txt").read_text()
        home = self._envs / peer
        complete = home / ".complete"
        if complete.exists() and complete.read_text() == wanted:
            return
        environment = {**os.environ, "UV_COMPILE_BYTECODE": "1", "UV_PYTHON_DOWNLOADS": "never"}
        environment.pop("VIRTUAL_ENV", None)
        uv = str(Path(sys.executable).parent / "uv")
        for command in (
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(home)],
            [uv, "pip", "install", "--quiet", "--python", str(home / "bin/python"), "-r", str(FOLDER / f"{peer}.txt")],
        ):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise PeerEnvironmentError(f"`{' '.join(command[:3])}`: {' '.join(done.stderr.split())[-500:]}")
        complete.write_text(wanted)

    def start(self, name: str, model: BenchModel, processes: Processes, folder: Path) -> Server:
        """Starts the server *name*, one of PEERS or TUNED. *folder* is for its settings."""
        port = free_port()
        if name == "mlflow":
            command = [self._bin("mlflow", "mlflow"), "models", "serve", "--model-uri", str(model.mlflow)]
            command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
            path = f"{self._envs}/mlflow/bin:{os.environ['PATH']}"
            return self._started(name, command, port, "/invocations", processes, {"PATH": path})
        if name.startswith("mlserver"):
            settings = folder / name
            _mlserver_settings(settings, model, port, batching=name == "mlserver-batching")
            command = [self._bin("mlserver", "mlserver"), "start", str(settings)]
            return self._started(name, command, port, "/v2/models/bench/infer", processes, {})
        if name == "bentoml":
            command = [self._bin(name, "bentoml"), "serve", "bentoml_program:Served", "--working-dir", str(FOLDER)]
            command += ["--host", "127.0.0.1", "--port", str(port)]
            more = {"MODEL_FILE": str(model.file()), "BENTOML_HOME": str(folder / "bentoml")}
            return self._started(name, command, port, "/predict", processes, more)
        command = [self._bin(name, "python"), "-P", str(FOLDER / f"{name}_program.py"), str(model.file()), str(port)]
        path = {"kserve": "/v1/models/bench:predict", "litserve": "/predict"}[name]
        return self._started(name, command, port, path, processes, {})

    def _bin(self, peer: str, name: str) -> str:
        return str(self._envs / peer / "bin" / name)

    def _started(
        self, name: str, command: list[str], port: int, path: str, processes: Processes, more: Mapping[str, str]
    ) -> Server:
        protocol = {"mlflow": SCORING, "mlserver": V2, "mlserver-batching": V2, "bentoml": TYPED}.get(name, V1)
        pid = processes.start(name, command, {"PYTHONPATH": str(FOLDER), **TELEMETRY, **more})
        return Server(name, port, path, protocol, (pid,), rows=(1,) if name in TUNED else (1, 100))


def _mlserver_settings(folder: Path, model: BenchModel, port: int, *, batching: bool) -> None:
    runtime, file = "mlserver_sklearn.SKLearnModel", model.file()
    if model.is_tensor:
        runtime = "mlserver_program.OnnxModel"
    elif model.key == "lightgbm":
        runtime, file = "mlserver_lightgbm.LightGBMModel", model.folder / "model.lgb"
    served: dict[str, Any] = {"name": "bench", "implementation": runtime, "parameters": {"uri": str(file)}}
    if batching:
        served |= {"max_batch_size": CONNECTIONS, "max_batch_time": 0.002}
    ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    folder.mkdir(parents=True)
    settings = {"debug": False, "host": "127.0.0.1", "parallel_workers": 0, **ports}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(served))


def versions(peer: str) -> str:
    """The versions that the peer's list pins, in one line."""
    return " ".join((FOLDER / f"{peer}.txt").read_text().split())
