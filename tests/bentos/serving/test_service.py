"""`bentoml serve` of a sealed bento answers as our launcher on the same bento does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from bentos.policy.build import BuildPolicy
from bentos.sealing.bento import build
from bentos.serving.environments.environment import Lock
from bentos.serving.fetch.artifact_tree import tree_digest
from bentos.versions.model_version import ModelVersion
from tests.bentos.saved import IGNORED, logistic
from tests.conftest import free_port

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORED]
ROWS = {"dataframe_split": {"columns": ["a", "b", "c"], "data": [[0.1, 0.2, 0.3], [0.9, 0.8, 0.7]]}}
TENSOR = {"name": "x", "shape": [2, 3], "datatype": "FP64", "data": [0.1, 0.2, 0.3, 0.9, 0.8, 0.7]}
REQUESTS = [
    ("POST", "/invocations", ROWS),
    ("POST", "/invocations", {"inputs": [[1]]}),
    ("GET", "/invocations", None),
    ("GET", "/ping", None),
    ("GET", "/version", None),
    ("GET", "/readyz", None),
    ("GET", "/livez", None),
    ("GET", "/v2", None),
    ("GET", "/v2/health/ready", None),
    ("GET", "/v2/models/numbers/versions/7", None),
    ("GET", "/v2/models/other", None),
    ("POST", "/v2/models/numbers/infer", {"inputs": [TENSOR], "outputs": [{"name": "predict_proba"}]}),
    ("POST", "/v2/models/numbers/infer", {"inputs": [TENSOR], "parameters": {"binary_data_output": True}}),
    ("POST", "/v2/models/numbers/infer", {"inputs": [{**TENSOR, "shape": [3, 3]}]}),
    ("GET", "/openapi.json", None),
    ("GET", "/docs", None),
    ("GET", "/nothing", None),
]
COMPARED = ("content-type", "x-shipway-model", "x-shipway-version", "x-shipway-arm", "inference-header-content-length")


@pytest.fixture(scope="module")
def bento(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bento")
    artifacts = logistic(folder / "model")
    version = ModelVersion("numbers", "7", None, str(artifacts), "sklearn", tree_digest(artifacts), ("numpy",), None)
    return build(version, artifacts, BuildPolicy(), Lock("", "sha256:1", "3.11", own=True), folder / "bentos").path


@contextmanager
def serving(command: list[str], port: int, environment: dict[str, str], folder: Path) -> Iterator[httpx.Client]:
    log = folder / f"{port}.log"
    with log.open("wb") as output, ExitStack() as stack:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **environment}, stdout=output, stderr=output, start_new_session=True
        )
        stack.callback(stop, process)
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20))
        yield client


def stop(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(5)


def wait(client: httpx.Client) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, "the server was not ready in 60 s"
        time.sleep(0.1)


def test_bentoml_serve_answers_as_the_launcher(bento: Path, tmp_path: Path) -> None:
    ours, theirs = free_port(), free_port()
    launcher = [
        sys.executable,
        "-m",
        "bentos.serving.launcher",
        "--bento",
        str(bento),
        "--port",
        str(ours),
        "--drain-seconds",
        "0",
    ]
    bentoml = [sys.executable, "-m", "bentoml", "serve", str(bento), "--host", "127.0.0.1", "--port", str(theirs)]
    private = {"BENTOML_HOME": str(tmp_path / "home"), "BENTOML_DO_NOT_TRACK": "True", "SHIPWAY_SEGMENTS": str(tmp_path / "log")}  # fmt: skip
    sealed = {"PYTHONPATH": str(bento / "src")}
    with (
        serving(launcher, ours, sealed, tmp_path) as a,
        serving(bentoml, theirs, private, tmp_path) as b,
    ):
        wait(a)
        wait(b)
        for method, path, body in REQUESTS:
            one, two = a.request(method, path, json=body), b.request(method, path, json=body)
            assert (path, one.status_code, one.content) == (path, two.status_code, two.content)
            assert {name: one.headers.get(name) for name in COMPARED} == {
                name: two.headers.get(name) for name in COMPARED
            }
        assert one.headers["x-shipway-version"] == "7"
        assert json.loads(b.post("/invocations", json=ROWS).content) == {"predictions": [0, 1]}
        assert (
            'shipway_requests_total{kind="v2",model="numbers",status="200",version="7"} 2.0' in b.get("/metrics").text
        )
    assert list((tmp_path / "log").glob("*.seg")), "its prediction log is closed when it stops"
