"""The stack of infra/compose on this machine's engine, in a folder of its own, driven as a user drives it.

Its images are built from the local base and stay on the engine, because they are the layers of the next build; everything
else is gone after ``down -v``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from examples.flights.flow_runs import FlowRuns
from tests.conftest import free_port
from tests.docker_engine import require_engine, settings_of_this_machine

ROOT = Path(__file__).resolve().parent.parent.parent
CONTEXT = ("bentos", "blocks", "examples", "flows", "infra", "monitoring", "requirements", ".dockerignore")
FILES = ("pyproject.toml", "prefect.yaml", "README.md", "LICENSE")
PORTS = ("MLFLOW_PORT", "PREFECT_PORT", "GATEWAY_PORT", "RECEIVER_PORT", "PROMETHEUS_PORT")
COMPOSE = ("docker-compose", "-f", "docker-compose.yml", "-f", "docker-compose.stand-ins.yml")
FLOW_SECONDS = 240.0


class Composed:
    """One stack in containers, called *name*. ``ports`` are the published ones, by the variable that sets them."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.folder = folder / "infra" / "compose"
        self.ports = {variable: free_port() for variable in PORTS}
        build_context(folder)
        images = settings_of_this_machine()
        subprocess.run([sys.executable, "prepare.py", "--name", name], cwd=self.folder, check=True)
        chosen = {
            **self.ports,
            "COMPOSE_PROFILES": "",  # Grafana is in no Debian package
            "SHIPWAY_BASE_IMAGE": images.base,
            "SHIPWAY_IMAGE": "shipway-compose-test:local",
            "BUILD_NETWORK": images.network,
        }
        with (self.folder / ".env").open("a") as file:
            file.writelines(f"{variable}={value}\n" for variable, value in chosen.items())

    def compose(self, *arguments: str, timeout: float = 600) -> str:
        """What ``docker-compose <arguments>`` printed; it must end well."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SHIPWAY_", "COMPOSE_", "DOCKER_BUILDKIT"))}
        done = subprocess.run(
            [*COMPOSE, *arguments],
            cwd=self.folder,
            env={**kept, "DOCKER_BUILDKIT": "0", "COMPOSE_DOCKER_CLI_BUILD": "0"},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        return done.stdout

    def url(self, part: str) -> str:
        """The published address of mlflow, prefect, gateway, receiver or prometheus."""
        return f"http://127.0.0.1:{self.ports[part.upper() + '_PORT']}"

    def policy(self, model: str, values: dict[str, Any]) -> None:
        """The release policy of *model*, where the stack looks for it."""
        (self.folder / "policies" / f"{model}.yaml").write_text(yaml.safe_dump(values))

    def user_environ(self) -> dict[str, str]:
        """A shell on this machine that talks to the stack's MLflow."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SHIPWAY_", "MLFLOW_", "PREFECT_"))}
        return {**kept, "MLFLOW_TRACKING_URI": self.url("mlflow"), "MLFLOW_DISABLE_TELEMETRY": "true"}

    def flow(self, deployment: str, **parameters: Any) -> str:
        """Runs ``<flow>/local`` to its end; the message it ended with. It must complete."""
        with FlowRuns(f"{self.url('prefect')}/api") as runs:
            run_id = runs.start(f"{deployment}/local", parameters)
            until(lambda: runs.ended(run_id), FLOW_SECONDS, lambda: self.compose("logs", "--tail=60", "worker"))
            ended = runs.ended(run_id)
        assert ended is not None and ended.state == "COMPLETED", (
            f"{ended}\n{self.compose('logs', '--tail=60', 'worker')}"
        )
        return ended.message

    def aliases(self, model: str) -> dict[str, str]:
        """Version by alias."""
        found = self.mlflow("GET", f"registered-models/get?name={model}")["registered_model"]
        return {one["alias"]: one["version"] for one in found.get("aliases", [])}

    def mlflow(self, method: str, path: str, **values: Any) -> dict[str, Any]:
        """One call of MLflow's REST API."""
        url = f"{self.url('mlflow')}/api/2.0/mlflow/{path}"
        answer = httpx.request(method, url, json=values or None, trust_env=False, timeout=30)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def prometheus(self, path: str, **parameters: str) -> Any:
        """The data of one answer of Prometheus' API."""
        url = f"{self.url('prometheus')}/api/v1/{path}"
        answer = httpx.get(url, params=parameters, trust_env=False, timeout=30).json()
        assert answer["status"] == "success", f"{path} {parameters}: {answer}"
        return answer["data"]


def build_context(folder: Path) -> None:
    """A copy of what our image is built from, with this machine's certificate authorities; no state of another stack."""
    for part in (*CONTEXT, *FILES):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
        copy(ROOT / part, folder / part)
    compose = folder / "infra" / "compose"
    for left in ("secrets", ".env", "ca/ca.pem"):
        path = compose / left
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    authorities = settings_of_this_machine().ca_file
    if authorities is not None:
        shutil.copyfile(authorities, compose / "ca" / "ca.pem")


@contextmanager
def composed(folder: Path, name: str) -> Iterator[Composed]:
    """A stack that is up and healthy, and gone with its volumes afterwards. Skipped where its tools are missing."""
    require_engine()
    if shutil.which("docker-compose") is None:
        pytest.skip("docker-compose is not installed (Debian: docker-compose)")
    stack = Composed(folder, name)
    stack.compose("build", "--parallel", "volumes", "postgres", "prometheus", timeout=900)
    stack.compose("build", "s3", timeout=300)
    try:
        stack.compose("up", "-d", timeout=300)
        until(lambda: "health: starting" not in stack.compose("ps"), 60)  # what nothing else waits for
        yield stack
    finally:
        stack.compose("down", "-v", "--timeout", "60", timeout=180)


def until(condition: Callable[[], object], seconds: float, why: Callable[[], str] = lambda: "") -> None:
    """Waits until *condition* holds; *why* is asked where it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not come true within {seconds:g} s\n{why()}"
        time.sleep(0.5)


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    return dict(json.loads((ROOT / "infra" / "dashboards" / "shipway.json").read_text()))
