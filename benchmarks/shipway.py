"""Shipway under measurement: a model prepared as a release prepares it, its servers, and the gateway before them."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from benchmarks.models import BenchModel
from benchmarks.processes import CORES, Processes, free_port
from benchmarks.protocols import SCORING
from benchmarks.servers import Server

if TYPE_CHECKING:
    from bentos.versions.model_version import ModelVersion
    from flows.release.line import Line
    from flows.release.prepare import Prepared

DIRECT = ("shipway", "shipway-no-log", "shipway-workers")
GATEWAYS = ("shipway-gateway", "shipway-gateway-no-mirror")
BARE = ("bare", "bare-shipway")
LEASE_SECONDS = 3600.0


@dataclass(frozen=True)
class _Folder:
    """The one question that preparing asks of a registry, answered for a folder."""

    model: BenchModel

    def resolve(self, name: str, *, version: str) -> ModelVersion:
        from bentos.serving.fetch.artifact_tree import tree_digest
        from bentos.serving.inputs.signature import read_mlmodel
        from bentos.serving.model.loaders import choose_flavor
        from bentos.versions.model_version import ModelVersion

        tree = self.model.mlflow
        lines = tuple((tree / "requirements.txt").read_text().splitlines())
        minor = f"{sys.version_info.major}.{sys.version_info.minor}"
        flavor = choose_flavor(read_mlmodel(tree))
        return ModelVersion(name, version, None, str(tree), flavor, tree_digest(tree), lines, minor)

    def fetch(self, found: ModelVersion) -> Path:
        return self.model.mlflow


def prepared(model: BenchModel, envs: Path, bentos: Path, *, runtime: str = "") -> Prepared:
    """The sealed bento and the environment of *model*, made by the step of a release itself, under the default policy.

    *runtime* overrides the policy's build.runtime.
    """
    from bentos.policy.release import ReleasePolicy
    from bentos.serving.environments.environment import Environments
    from flows.release.prepare import prepare

    settings = SimpleNamespace(bentos=bentos, root=bentos, envs=envs)
    line = SimpleNamespace(
        registry=_Folder(model), environments=Environments(envs), images=None, settings=settings, ledger=None
    )
    policy = ReleasePolicy.model_validate({"build": {"runtime": runtime}} if runtime else {})
    return prepare(cast("Line", line), model.key.replace("_", "-"), "1", policy)


def runtime_of(ready: Prepared) -> dict[str, Any]:
    """What the build chose and why: runtime.json of the sealed bento, or only the name that its facts have."""
    said = ready.bento.path / "src" / "runtime" / "runtime.json"
    if said.is_file():
        return {key: value for key, value in json.loads(said.read_text()).items() if key != "converted"}
    return {"runtime": ready.bento.facts["runtime"]}


def launch(name: str, ready: Prepared, processes: Processes, where: list[str], segments: Path | None) -> int:
    """Starts the model server as the process target does; its pid."""
    command = [str(ready.python), "-m", "bentos.serving.launcher", "--bento", str(ready.bento.path), *where]
    command += ["--deployment", name, *(["--segments", str(segments)] if segments else [])]
    return processes.start(name, command, {"PYTHONPATH": str(ready.code)})


def direct(name: str, ready: Prepared, processes: Processes, folder: Path) -> Server:
    """One of DIRECT: the server alone, over TCP; ``shipway-workers`` with a worker for each core."""
    port = free_port()
    segments = None if name == "shipway-no-log" else folder / f"segments-{name}"
    workers = len(CORES) if name == "shipway-workers" else 1
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)]
    pid = launch(name, ready, processes, where, segments)
    rows = (1,) if name == "shipway-no-log" else (1, 100)
    return Server(name, port, "/invocations", SCORING, (pid,), rows=rows, workers=workers)


def bare(name: str, processes: Processes) -> Server:
    """One of BARE: a constant answer."""
    port = free_port()
    root = str(Path(__file__).resolve().parents[1])
    command = [sys.executable, "-m", "benchmarks.bare", "uvicorn" if name == "bare" else "http1", str(port)]
    pid = processes.start(name, command, {"PYTHONPATH": root})
    return Server(name, port, "/invocations", SCORING, (pid,), constant=True)


def gateways(names: list[str], ready: Prepared, processes: Processes, folder: Path) -> list[Server]:
    """Envoy before a baseline on a unix socket, as the stack runs it; with the mirror, before a candidate too.

    Both servers log every request. Mirrored is all of the traffic.
    """
    from infra.gateways.envoy import EnvoyGateway
    from infra.targets.interface import Address
    from infra.traffic import Arm, TrafficPlan

    port, admin = free_port(), free_port()
    pids, arms = {}, {}
    for arm in ("baseline", "candidate"):
        socket = folder / f"{arm}.sock"
        pids[arm] = launch(arm, ready, processes, ["--uds", str(socket)], folder / f"segments-{arm}")
        weight, mirror = (100, 0.0) if arm == "baseline" else (0, 100.0)
        arms[arm] = Arm(cast("Any", arm), arm, arm, Address(uds=str(socket)), weight, mirror)
        processes.wait(pids[arm], socket.exists)
    gateway = EnvoyGateway(folder / "gateway", host="127.0.0.1", port=port, admin_port=admin)
    gateway.bootstrap()
    envoy = processes.start("envoy", gateway.command())
    processes.wait(envoy, gateway.alive)
    servers = []
    for name in names:
        mirrored = name == "shipway-gateway"
        plan = TrafficPlan(
            name,
            (arms["baseline"], arms["candidate"]) if mirrored else (arms["baseline"],),
            expires_at=time.time() + LEASE_SECONDS if mirrored else None,
        )
        gateway.apply(plan, timeout=60)
        cost = (envoy, pids["baseline"], *((pids["candidate"],) if mirrored else ()))
        path = f"/models/{name}/invocations"
        servers.append(Server(name, port, path, SCORING, cost, rows=(1, 100) if mirrored else (1,)))
    return servers
