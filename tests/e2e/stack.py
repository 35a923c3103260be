"""One stack in a folder of its own, driven as a user drives it: by the console script, Prefect's API and the gateway."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from examples.flights.flow_runs import FlowRuns
from flows.triggers.prefect_runs import PrefectRuns
from infra.gateways.envoy import EnvoyGateway
from infra.receiver.flow_runs import RunsUnavailable, StartedRun
from infra.settings import StackSettings
from infra.stack.part_process import marked
from infra.targets.process.target import ProcessTarget
from monitoring.ledger.ledger import Ledger
from tests.conftest import free_port

SHIPWAY = Path(sys.executable).with_name("shipway")
FLOW_SECONDS = 240.0


@dataclass(frozen=True)
class Run:
    """How a flow run ended: Prefect's state type and message, and the lines it logged."""

    id: str
    state: str
    message: str
    logs: str
    seconds: float

    @property
    def said(self) -> str:
        """Everything a person sees on the run's page."""
        return f"{self.state}: {self.message}\n{self.logs}"


class Stack:
    """One stack in a folder of its own. ``policies`` is its folder of release policies, empty at first."""

    def __init__(self, folder: Path) -> None:
        names = ("mlflow", "prefect", "gateway", "gateway_admin", "receiver")
        self.policies = folder / "policies"
        self.policies.mkdir(parents=True, exist_ok=True)
        ports = {f"{name}_port": free_port() for name in names}
        self.settings = StackSettings(home=folder / "home", policies=self.policies, **ports)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SHIPWAY_", "MLFLOW_", "PREFECT_"))}
        self.environ = {**kept, **self.settings.environment(), "SHIPWAY_START_SECONDS": "180"}

    # The console script

    def run(self, *arguments: str, code: int = 0, **environ: str) -> str:
        """What ``shipway <arguments>`` printed; it must end with *code*."""
        done = subprocess.run(
            [SHIPWAY, *arguments],
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def status(self) -> dict[str, Any]:
        """``shipway status --json``."""
        done = subprocess.run([SHIPWAY, "status", "--json"], env=self.environ, capture_output=True, check=False)
        return dict(json.loads(done.stdout))

    def part(self, name: str) -> dict[str, Any]:
        """One part of it."""
        return next(part for part in self.status()["parts"] if part["name"] == name)

    def user_environ(self) -> dict[str, str]:
        """What a user's shell has after ``eval "$(shipway env)"``."""
        exported = {"PREFECT_API_URL": self.settings.prefect_api_url, "MLFLOW_TRACKING_URI": self.settings.mlflow_url}
        return {**self.environ, **exported, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}

    # Its parts, through their own interfaces

    def gateway(self) -> EnvoyGateway:
        """The gateway."""
        s = self.settings
        return EnvoyGateway(s.gateway, host=s.host, port=s.gateway_port, admin_port=s.gateway_admin_port)

    def target(self) -> ProcessTarget:
        """The process target."""
        return ProcessTarget(self.settings.deployments, segments=self.settings.segments)

    def ledger(self) -> Ledger:
        """The ledger."""
        return Ledger(self.settings.mlflow_url, self.settings.root / "releases" / "files")

    def start(self, model: str, version: str) -> StartedRun:
        """What the receiver does for a webhook; Prefect on SQLite may answer 503 while it is busy, as MLflow would see."""
        runs = PrefectRuns(self.settings.prefect_api_url, self.settings.mlflow_url, environ={})
        for _ in range(10):
            try:
                return runs.start_now(model, version)
            except RunsUnavailable:
                time.sleep(1)
        return runs.start_now(model, version)

    # Flow runs

    def flow(self, deployment: str, **parameters: Any) -> Run:
        """Runs ``<flow>/local`` to its end, whatever that is."""
        began = time.monotonic()
        with FlowRuns(self.settings.prefect_api_url, patience=FLOW_SECONDS) as runs:
            run_id = runs.start(f"{deployment}/local", parameters)
            while (ended := runs.ended(run_id)) is None:
                assert time.monotonic() - began < FLOW_SECONDS, (
                    f"{deployment} {parameters} has not ended:\n{self.logs(run_id)}"
                )
                time.sleep(0.4)
        return Run(run_id, ended.state, ended.message, self.logs(run_id), time.monotonic() - began)

    @contextmanager
    def without_schedules(self) -> Iterator[None]:
        """Nothing reconciles meanwhile but who asks for it; what was under way has ended."""
        url = self.settings.prefect_api_url
        with httpx.Client(trust_env=False, timeout=30) as client:
            found = client.get(f"{url}/deployments/name/reconcile/local").raise_for_status().json()["id"]
            client.post(f"{url}/deployments/{found}/pause_deployment").raise_for_status()
            under_way = {
                "deployments": {"id": {"any_": [found]}},
                "flow_runs": {"state": {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING"]}}},
            }
            until(lambda: not client.post(f"{url}/flow_runs/filter", json=under_way).raise_for_status().json(), 60)
            try:
                yield
            finally:
                client.post(f"{url}/deployments/{found}/resume_deployment").raise_for_status()

    def logs(self, run_id: str) -> str:
        """The lines that a flow run logged."""
        body = {"logs": {"flow_run_id": {"any_": [run_id]}}, "limit": 200, "sort": "TIMESTAMP_ASC"}
        lines = httpx.post(
            f"{self.settings.prefect_api_url}/logs/filter", json=body, trust_env=False, timeout=30
        ).json()
        return "\n".join(line["message"] for line in lines)

    # Clients of the gateway

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """A POST to the gateway."""
        return httpx.post(f"{self.settings.gateway_url}{path}", json=body, headers=headers, trust_env=False, timeout=30)

    # Harm

    def kill_everything(self) -> None:
        """SIGKILL to the supervisor, to every part, and to all they ever started."""
        supervisor = json.loads((self.settings.stack / "state.json").read_text())["pid"]
        os.kill(supervisor, signal.SIGKILL)
        for process in marked(self.settings.root):
            process.kill()
        until(lambda: not marked(self.settings.root))


@contextmanager
def running(folder: Path) -> Iterator[Stack]:
    """A stack that is up, and down again afterwards."""
    stack = Stack(folder)
    stack.run("up")
    try:
        yield stack
    finally:
        stack.run("down")


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Waits until *condition* holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.1)
