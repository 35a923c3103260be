"""The embedded stack whole: real MLflow, Prefect, worker, Envoy and receiver; up, hurt, killed, up again, down."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingUnixStreamServer

import httpx
import psutil
import pytest

from infra.mlflow_rest import MlflowRest
from infra.stack.part_process import marked
from infra.targets.interface import Address
from infra.traffic import Arm, TrafficPlan
from tests.e2e.stack import Stack, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.long("stack")]
PARTS = {"mlflow", "prefect", "gateway", "receiver", "webhook", "deployments", "worker", "compactor"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of this module's own, because it is hurt here."""
    with running(tmp_path_factory.mktemp("stack")) as made:
        yield made


def test_every_part_is_up_and_listens_on_loopback_alone(stack):
    found = stack.status()
    assert found["up"]
    assert {part["name"] for part in found["parts"]} == PARTS
    assert found["problems"] == {}
    listening = [
        connection.laddr
        for process in marked(stack.settings.root)
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {address.port for address in listening} >= {
        stack.settings.mlflow_port,
        stack.settings.prefect_port,
        stack.settings.gateway_port,
        stack.settings.gateway_admin_port,
        stack.settings.receiver_port,
    }
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_up_again_says_that_it_is_up(stack):
    pids = {part["name"]: part["pid"] for part in stack.status()["parts"]}
    assert "already up" in stack.run("up")
    assert {part["name"]: part["pid"] for part in stack.status()["parts"]} == pids


def test_the_alias_challenger_starts_one_run_by_webhook(stack):
    rest = MlflowRest(stack.settings.mlflow_url)
    rest.call("POST", "/registered-models/create", name="wine")
    run = rest.call("POST", "/runs/create", experiment_id="0")["run"]["info"]
    source = f"{run['artifact_uri']}/model"  # nothing is there: the release it starts has nothing to release
    rest.call("POST", "/model-versions/create", name="wine", source=source, run_id=run["run_id"])
    rest.call("POST", "/registered-models/alias", name="wine", alias="other", version="1")
    rest.call("POST", "/registered-models/alias", name="wine", alias="challenger", version="1")

    def counts() -> dict[str, int]:
        return dict(httpx.get(f"{stack.settings.receiver_url}/stats", trust_env=False).json()["webhooks"])

    until(lambda: counts() == {"ignored": 1, "started": 1})
    again = stack.start("wine", "1")
    assert not again.created
    run = httpx.get(f"{stack.settings.prefect_api_url}/flow_runs/{again.id}", trust_env=False).json()
    assert run["parameters"]["model"] == "wine"
    assert run["idempotency_key"] == "promote:wine:1:0"
    (model,) = stack.status()["models"]
    assert (model["name"], model["aliases"]) == ("wine", {"other": "1", "challenger": "1"})


def test_the_webhook_is_registered_once_however_often_up_runs(stack):
    code = "from flows.triggers.webhook import main; main(); main()"
    subprocess.run([sys.executable, "-c", code], env=stack.environ, check=True, capture_output=True)
    rest = MlflowRest(stack.settings.mlflow_url)
    assert len(rest.call("GET", "/webhooks")["webhooks"]) == 1


def test_labels_are_taken(stack):
    label = {"request_id": "a", "value": 1}
    answer = httpx.post(f"{stack.settings.receiver_url}/labels", json=label, trust_env=False)
    assert answer.status_code == 202
    assert '"request_id": "a"' in "".join(path.read_text() for path in stack.settings.labels.iterdir())


def test_what_the_stack_keeps_is_its_owner_s_alone(stack):
    root = stack.settings.root
    kept = [path for path in (root, *root.rglob("*")) if not path.is_symlink() and "envs" not in path.parts]
    assert len(kept) > 40
    assert [f"{path}: {path.stat().st_mode:o}" for path in kept if path.exists() and path.stat().st_mode & 0o077] == []


def test_a_killed_gateway_is_started_again_and_status_says_so(stack):
    before = stack.part("gateway")
    os.kill(before["pid"], signal.SIGKILL)
    until(lambda: (part := stack.part("gateway"))["state"] == "ready" and part["restarts"] == 1)
    after = stack.part("gateway")
    assert after["last_exit"] == "signal SIGKILL"
    assert after["pid"] != before["pid"]


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_POST = do_GET  # noqa: N815 (the base class's name)

    def address_string(self) -> str:
        return "socket"

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def arms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Arm]]:
    folder = tmp_path_factory.mktemp("s")
    servers = [ThreadingUnixStreamServer(str(folder / name), _Handler) for name in ("1", "2")]
    threads = [threading.Thread(target=server.serve_forever) for server in servers]
    for thread in threads:
        thread.start()
    yield [
        Arm("baseline", "1", "wine-1", Address(uds=str(folder / "1")), 50),
        Arm("candidate", "2", "wine-2", Address(uds=str(folder / "2")), 50),
    ]
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_lapsed_lease_returns_to_the_baseline_even_with_prefect_down(stack, arms):
    prefect = psutil.Process(stack.part("prefect")["pid"])
    gateway = stack.gateway()
    prefect.suspend()
    try:
        gateway.apply(TrafficPlan("wine", tuple(arms), expires_at=time.time() + 3))
        plan = gateway.plan("wine")
        assert plan is not None
        assert plan.candidate is not None
        until(lambda: gateway.plan("wine").candidate is None, seconds=8)
        assert gateway.plan("wine").baseline.weight == 100
    finally:
        prefect.resume()
        gateway.remove("wine")


def test_up_after_everything_was_killed_loses_nothing(stack):
    stack.kill_everything()
    assert not stack.status()["running"]
    stack.run("up")
    found = stack.status()
    assert found["up"]
    assert found["models"][0]["aliases"] == {"other": "1", "challenger": "1"}
    assert not stack.start("wine", "1").created  # Prefect still knows the run that the webhook started


DEPLOY = """
import os, sys
from pathlib import Path
from flows.stack.prefect_deployments import deploy
from infra.settings import load_settings
print(deploy(load_settings(os.environ), os.environ, Path(sys.argv[1])))
"""


def test_deployments_are_applied_again_only_when_something_changed(stack, tmp_path):
    (tmp_path / "flows").mkdir()
    flow = tmp_path / "flows" / "noop.py"
    flow.write_text(
        "from prefect import flow\n\n@flow(name='noop')\ndef noop(times: int = 1) -> int:\n    return times\n"
    )
    file = tmp_path / "prefect.yaml"
    entry = "name: {}\n    entrypoint: flows/noop.py:noop\n    work_pool: {{name: shipway}}\n"
    file.write_text("deployments:\n  - " + entry.format("one"))
    environ = {
        **stack.environ,
        "PREFECT_API_URL": stack.settings.prefect_api_url,
        "SHIPWAY_HOME": str(tmp_path / "home"),
    }
    environ["PREFECT_HOME"] = str(tmp_path / "prefect")
    (tmp_path / "home" / "stack").mkdir(parents=True)

    def deploy() -> str:
        command = [sys.executable, "-c", textwrap.dedent(DEPLOY), str(file)]
        return subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout

    assert "noop/one" in deploy().splitlines()[-1]
    assert len(deploy().splitlines()) == 1  # `prefect deploy` did not run
    file.write_text(file.read_text() + "  - " + entry.format("two"))
    last = deploy().splitlines()
    assert len(last) > 1
    assert "noop/two" in last[-1]


def test_down_leaves_no_process_and_up_can_follow(stack):
    stack.run("down")
    assert marked(stack.settings.root) == []
    assert not stack.status()["running"]
    assert "No stack runs" in stack.run("down")
