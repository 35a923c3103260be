"""The flows themselves in containers: a work pool of type docker beside an embedded stack, to finished releases."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from examples.flights.flow_runs import FlowRuns
from infra.images.engine import connected
from tests.docker_engine import base_image, require_engine, settings_of_this_machine
from tests.e2e.composed import ROOT, build_context, until
from tests.e2e.stack import Stack
from tests.e2e.toy import QUICK, register_toy, write_policy
from tests.e2e.traffic import Traffic

pytestmark = [pytest.mark.long("docker"), pytest.mark.timeout(1200)]
IMAGE = "shipway-compose-test:local"
MODEL = f"toy-{uuid.uuid4().hex[:6]}"


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """A client of the engine. What was released here is removed with its images."""
    require_engine()
    pytest.importorskip("prefect_docker", reason="prefect-docker is not installed")
    with connected() as client:
        yield client
        for image in client.images.list(filters={"label": f"io.shipway.model={MODEL}"}):
            client.images.remove(image.id, force=True)


@pytest.fixture(scope="module")
def image(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image of our own parts; it stays, as the layers of its next build."""
    folder = tmp_path_factory.mktemp("image")
    build_context(folder)
    command = ["docker", "build", "-q", "--network", "host", "-f", "infra/compose/Dockerfile", "-t", IMAGE]
    command += ["--build-arg", f"SHIPWAY_BASE_IMAGE={base_image()}", "."]
    environ = {**os.environ, "DOCKER_BUILDKIT": "0"}
    subprocess.run(command, cwd=folder, env=environ, check=True, capture_output=True, timeout=600)
    return IMAGE


@pytest.fixture(scope="module")
def stack(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An embedded stack that releases to containers, with a docker worker beside its own."""
    made = Stack(tmp_path_factory.mktemp("pool"))
    chosen = settings_of_this_machine().model_dump(exclude_none=True)
    made.environ |= {f"SHIPWAY_IMAGE_{name.upper()}": str(value) for name, value in chosen.items()}
    made.environ["SHIPWAY_TARGET"] = "docker"
    made.run("up")
    try:
        environ = made.user_environ()
        pool = [sys.executable, "-m", "flows.stack.docker_pool", "--image", image]
        subprocess.run(pool, env=environ, cwd=ROOT, check=True, timeout=120)
        worker = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "shipway-docker", "--type", "docker"]
        environ |= {"PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_HOME": str(made.settings.root / "prefect")}
        with (made.settings.logs / "docker-worker.log").open("wb") as log:
            process = subprocess.Popen([*worker, "--install-policy", "never"], env=environ, stdout=log, stderr=log)
        try:
            yield made
        finally:
            process.kill()  # Prefect's worker waits long where it was just asking its server something
            process.wait()
    finally:
        made.run("down")


def flow(stack: Stack, deployment: str, **parameters: Any) -> tuple[str, dict[str, Any]]:
    """Runs ``<flow>/docker`` to its end: the message it ended with, and the run as Prefect has it. It must complete."""
    with FlowRuns(stack.settings.prefect_api_url) as runs:
        run_id = runs.start(f"{deployment}/docker", parameters)

        def logs() -> str:
            return f"{stack.logs(run_id)}\n{(stack.settings.logs / 'docker-worker.log').read_text()[-3000:]}"

        until(lambda: runs.ended(run_id), 300, logs)
        ended = runs.ended(run_id)
        assert ended is not None and ended.state == "COMPLETED", f"{ended}\n{logs()}"
    run = httpx.get(f"{stack.settings.prefect_api_url}/flow_runs/{run_id}", trust_env=False).json()
    return ended.message, run


def test_releases_in_containers_end_promoted(stack: Stack, engine: Any) -> None:
    write_policy(stack, MODEL, QUICK)
    register_toy(stack, MODEL, 2)
    said, run = flow(stack, "promote-model", model=MODEL, version="1")
    assert said.startswith("PROMOTED")
    assert run["infrastructure_pid"]  # the container's id, as the docker worker gives it
    assert run["work_pool_name"] == "shipway-docker"
    with Traffic(f"{stack.settings.gateway_url}/models/{MODEL}/invocations", rate=30) as traffic:
        said, _ = flow(stack, "promote-model", model=MODEL, version="2")
        until(lambda: traffic.versions["2"] > 10, 30)
    assert said.startswith("PROMOTED")
    assert traffic.failures == []


def test_the_containers_of_flow_runs_are_gone(stack: Stack, engine: Any) -> None:
    def left() -> list[str]:
        labelled = {"label": "io.prefect.flow-run-id"}
        return [one.name for one in engine.containers.list(all=True, filters=labelled) if IMAGE in one.image.tags]

    until(lambda: left() == [], 30, lambda: f"{left()}")


def test_a_flow_run_in_a_container_rolls_back(stack: Stack) -> None:
    said, _ = flow(stack, "rollback-model", model=MODEL, reason="a test")
    assert said.startswith("PROMOTED: a test")
    answer = stack.post(
        f"/models/{MODEL}/invocations", {"dataframe_split": {"columns": list("abcd"), "data": [[0.1, 0.2, 0.3, 0.4]]}}
    )
    assert (answer.status_code, answer.headers["x-shipway-version"]) == (200, "1")
