"""A server that follows an alias on a real MLflow server, under load, with no failed request."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version as installed
from pathlib import Path

import httpx
import pytest

from bentos.serving.fetch.download import DownloadError, RegistryAway
from bentos.serving.follow.reload import Alias, RefusedVersion
from bentos.serving.inputs.compatible import incompatibility
from bentos.serving.inputs.signature import Column, Param, Signature, Tensor
from tests.bentos.saved import IGNORED
from tests.bentos.servers import ROOT, Server

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORED]
BODY = {"dataframe_split": {"columns": ["a", "b", "c"], "data": [[0.2, 0.4, 0.6]]}}


# In a process of its own: mlflow keeps the tracking URI, the experiment and the run in globals.
REGISTER = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import mlflow
from mlflow.models import infer_signature
from sklearn.linear_model import LinearRegression
from tests.bentos.saved import numbers, save

frame = numbers()
for version in (1, 2, 3, 4):
    data = frame.assign(d=0.0) if version == 3 else frame
    model = LinearRegression().fit(data, data.a * 0 + version)
    signature = infer_signature(data, model.predict(data))
    mlflow.sklearn.log_model(model, name="model", signature=signature, registered_model_name="followed", pip_requirements=["numpy"])
client = mlflow.MlflowClient()
folder = mlflow.artifacts.download_artifacts(client.get_model_version("followed", "4").source, dst_path=sys.argv[1])
for path in Path(folder).rglob("*"):
    if path.suffix in (".skops", ".pkl"):
        path.write_bytes(b"broken")
with mlflow.start_run() as run:
    mlflow.log_artifacts(folder, "broken")
client.create_model_version("followed", f"runs:/{run.info.run_id}/broken", run.info.run_id)
other = Path(sys.argv[1]) / "other"
model = LinearRegression().fit(frame, frame.a * 0 + 6)
save("sklearn", model, other, frame, model.predict(frame), pip_requirements=["scikit-learn==1.4.2", "numpy<2", "idna"])
with mlflow.start_run() as run:
    mlflow.log_artifacts(str(other), "other")
client.create_model_version("followed", f"runs:/{run.info.run_id}/other", run.info.run_id)
client.set_registered_model_alias("followed", "live", "1")
"""


@pytest.fixture(scope="module")
def registry(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Versions 1, 2 and 4 answer their own number, 3 needs a column more, 5 has a corrupt model file, 6 other packages."""
    command = [sys.executable, "-c", REGISTER, str(tmp_path_factory.mktemp("download"))]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": mlflow_server, "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return mlflow_server


def set_alias(registry: str, version: str) -> None:
    url = f"{registry}/api/2.0/mlflow/registered-models/alias"
    httpx.post(url, json={"name": "followed", "alias": "live", "version": version}).raise_for_status()


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def test_follows_the_alias_without_a_failed_request(registry: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bentos.serving.launcher", "--port", "0", "--drain-seconds", "0"]
    command += ["--follow", "models:/followed@live", "--registry", registry, "--poll-seconds", "0.2"]
    process = subprocess.Popen([*command, "--models", str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with Server(process, process.stdout.readline().split()[-1], tmp_path) as server, server.client() as client:
        state = lambda: client.get("/readyz").json()  # noqa: E731 it reads as what it is
        until(lambda: reachable(client), "ready")
        assert state()["version"] == "1"
        stop, seen = threading.Event(), Counter[tuple[int, str, int]]()
        traffic = threading.Thread(target=ask, args=(server, stop, seen))
        traffic.start()
        try:
            set_alias(registry, "2")
            until(lambda: state()["version"] == "2", "version 2 answers")
            set_alias(registry, "3")
            until(lambda: state()["refused"] != "", "version 3 is refused")
            assert "'d' (double) is new and required" in state()["refused"]
            assert "shipway_reload_refused_now{" in client.get("/metrics").text
            set_alias(registry, "5")
            until(lambda: "followed/5" in state()["refused"], "version 5 is refused")
            assert "cannot be loaded" in state()["refused"]
            set_alias(registry, "6")
            until(lambda: "followed/6" in state()["refused"], "version 6 is refused")
            assert "it asks for scikit-learn==1.4.2, numpy<2, idna" in state()["refused"]
            assert f"this environment has scikit-learn {installed('scikit-learn')}" in state()["refused"]
            assert state()["version"] == "2"
            set_alias(registry, "2")
            until(lambda: state()["refused"] == "", "the refusal is forgotten")
            set_alias(registry, "1")
            until(lambda: state()["version"] == "1", "version 1 answers again")
        finally:
            stop.set()
            traffic.join(20)
        assert server.stop() == 0
    assert {status for status, _, _ in seen} == {200}
    assert {(version, answer) for _, version, answer in seen} == {("1", 1), ("2", 2)}, "the header says who answered"
    assert sum(seen.values()) > 20


def reachable(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def ask(server: Server, stop: threading.Event, seen: Counter[tuple[int, str, int]]) -> None:
    with server.client() as client:
        while not stop.is_set():
            answer = client.post("/invocations", json=BODY)
            value = round(answer.json()["predictions"][0]) if answer.status_code == 200 else -1
            seen[(answer.status_code, answer.headers["x-shipway-version"], value)] += 1
            time.sleep(0.01)


def test_what_the_registry_does_not_have_is_named(registry: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="nobody"):
        Alias.parse("models:/nobody@live", registry, tmp_path).resolve()
    with pytest.raises(DownloadError, match="models:/NAME@ALIAS"):
        Alias.parse("models:/nobody/3", registry, tmp_path)
    with pytest.raises(
        RefusedVersion, match=r"it asks for scikit-learn==1\.4\.2.*Not satisfied: scikit-learn==1\.4\.2 \(found"
    ):
        Alias.parse("models:/followed@live", registry, tmp_path / "first").first("6")
    with pytest.raises(RegistryAway, match="does not answer"):
        Alias.parse("models:/nobody@live", "http://127.0.0.1:9", tmp_path).resolve()
    with pytest.raises(RefusedVersion, match="99"):
        Alias.parse("models:/followed@live", registry, tmp_path).fetch("99")
    assert [path.name for path in tmp_path.iterdir()] == ["first"], "nothing half-made is left"


def columns(**kinds: str) -> Signature:
    return Signature(tuple(Column(name, kind.rstrip("?"), not kind.endswith("?")) for name, kind in kinds.items()))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (columns(a="double", b="long"), columns(b="long", a="double"), ""),
        (columns(a="double", b="long"), columns(a="double"), ""),
        (columns(a="double"), columns(a="double", b="long?"), ""),
        (columns(a="double"), columns(a="double?"), ""),
        (columns(a="double"), columns(a="double", b="long"), "column 'b' (long) is new and required"),
        (columns(a="double"), columns(a="string"), "column 'a' was double, is string"),
        (columns(a="double?"), columns(a="double"), "column 'a' was optional, is required"),
        (columns(a="double"), Signature((Tensor(None, "float64", (-1, 1)),)), "one takes columns, the other tensors"),
        (Signature((Tensor("x", "float32", (-1, 2)),)), Signature((Tensor("x", "float32", (-1, 2)),)), ""),
        (
            Signature((Column("a", "long"),), (), (Param("k", "long", 1),)),
            columns(a="long"),
            "param 'k' is gone",
        ),
    ],
)
def test_incompatible_signatures_are_named(old: Signature, new: Signature, reason: str) -> None:
    assert incompatibility(old, new) == reason


def test_tensors_must_be_the_same() -> None:
    old, new = Signature((Tensor("x", "float32", (-1, 2)),)), Signature((Tensor("x", "float32", (-1, 3)),))
    assert "shape=(-1, 3)" in incompatibility(old, new)
