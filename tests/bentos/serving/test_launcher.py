"""The server as clients and operators meet it: a real process, a real model, real clients."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest

from bentos.serving.inputs.signature import load_signature
from bentos.serving.log.decode import decode_request, decode_response
from bentos.serving.log.segments import scan_segment, segments
from tests.bentos.saved import IGNORED
from tests.bentos.servers import ROOT, Server, launch

pytestmark = [
    *(pytest.mark.filterwarnings(line) for line in IGNORED),
    # mlflow.sklearn: looks ahead of its own next release
    pytest.mark.filterwarnings("ignore::FutureWarning:mlflow.*"),
]
ROWS = pd.DataFrame(
    {"city": ["Rome", "Oslo", "Rome", "Bonn"], "age": [20.5, 30.0, np.nan, 70.25], "visits": [1, 0, 7, 3]}
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline over a text, a float and an integer column, that accepts missing numbers."""
    import mlflow
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    train = pd.concat([ROWS] * 20, ignore_index=True)
    encode = ColumnTransformer([("city", OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["city"])], remainder="passthrough")  # fmt: skip
    pipeline = make_pipeline(encode, HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=1))
    pipeline.fit(train, np.array(["no", "yes", "no", "yes"] * 20))
    folder = tmp_path_factory.mktemp("model") / "model"
    signature = mlflow.models.infer_signature(train.astype({"visits": "int64"}), np.array(["no", "yes"]))
    mlflow.sklearn.save_model(pipeline, folder, signature=signature, input_example=ROWS[:2], serialization_format="pickle", pip_requirements=["scikit-learn"])  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("segments")
    with launch("--bento", str(model), "--drain-seconds", "0", segments_folder=folder) as found:
        yield found
        assert found.stop() == 0


@pytest.fixture(scope="module")
def expected(model: Path) -> list[str]:
    import mlflow

    return [str(value) for value in mlflow.pyfunc.load_model(str(model)).predict(ROWS)]


def test_mlflows_client_works_unchanged(server: Server, expected: list[str]) -> None:
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    host, port = server.address.removeprefix("http://").split(":")
    client = ScoringServerClient(host, port)
    client.wait_server_ready(timeout=5)
    client.ping()
    assert client.get_version().startswith("3.")
    answer = client.invoke(ROWS)
    assert answer.get_predictions()[0].tolist() == expected


def test_every_scoring_format_gives_mlflows_numbers(server: Server, expected: list[str]) -> None:
    records = json.loads(ROWS.to_json(orient="records"))
    split = json.loads(ROWS.to_json(orient="split"))
    bodies = {
        "split": {"dataframe_split": split},
        "records": {"dataframe_records": records},
        "instances": {"instances": records},
        "rows": {"instances": split["data"]},
        "inputs": {"inputs": {name: [row[name] for row in records] for name in ROWS.columns}},
        "inputs of records": {"inputs": records},
    }
    with server.client() as client:
        for name, body in bodies.items():
            answer = client.post("/invocations", json=body)
            assert (name, answer.json()) == (name, {"predictions": expected})
        answer = client.post("/invocations", content=ROWS.to_csv(index=False), headers={"content-type": "text/csv"})
        assert answer.json() == {"predictions": expected}


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_works_unchanged(server: Server, expected: list[str], binary: bool) -> None:
    from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

    inputs = []
    for name, datatype, values in [
        ("city", "BYTES", ROWS.city.to_numpy(dtype=object)),
        ("age", "FP64", ROWS.age.to_numpy()),
        ("visits", "INT64", ROWS.visits.to_numpy().reshape(-1, 1)),
    ]:
        tensor = InferInput(name, list(values.shape), datatype)
        tensor.set_data_from_numpy(values, binary_data=binary)
        inputs.append(tensor)
    client = InferenceServerClient(server.address.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("model")
    assert [entry["name"] for entry in client.get_model_metadata("model")["inputs"]] == ["city", "age", "visits"]
    default = client.infer("model", inputs, request_id="seven")
    assert [value.decode() for value in default.as_numpy("predict")] == expected
    assert default.get_response()["id"] == "seven"
    outputs = [InferRequestedOutput("predict_proba", binary_data=binary), InferRequestedOutput("predict", binary_data=not binary)]  # fmt: skip
    both = client.infer("model", inputs, outputs=outputs)
    assert both.as_numpy("predict_proba").shape == (4, 2)
    assert np.allclose(both.as_numpy("predict_proba").sum(axis=1), 1)
    client.close()


def test_wrong_model_version_path_and_method(server: Server) -> None:
    with server.client() as client:
        for path in ("/v2/models/other", "/v2/models/model/versions/9", "/v2/nothing"):
            answer = client.get(path)
            assert (answer.status_code, list(answer.json())) == (404, ["error"])
        assert client.post("/v2/models/other/infer", json={}).status_code == 404
        assert client.get("/v2/models/model/versions/0").status_code == 200
        assert client.get("/nothing").json()["error_code"] == "ENDPOINT_NOT_FOUND"
        assert client.get("/invocations").status_code == 405
        assert client.post("/ping").status_code == 405


def test_headers_say_who_answered_for_whom(server: Server) -> None:
    body = {"dataframe_records": json.loads(ROWS.to_json(orient="records"))}
    with server.client() as client:
        plain = client.post("/invocations", json=body).headers
        assert (plain["x-shipway-model"], plain["x-shipway-version"], plain["x-shipway-arm"]) == (
            "model",
            "0",
            "baseline",
        )
        assert len(plain["x-request-id"]) == 32
        assert "x-shipway-fallback" not in plain
        ours = client.post("/invocations", json=body, headers={"x-shipway-assigned": "candidate/0", "x-request-id": "r-1"}).headers  # fmt: skip
        assert (ours["x-shipway-arm"], ours["x-request-id"]) == ("candidate", "r-1")
        other = client.post("/invocations", json=body, headers={"x-shipway-assigned": "candidate/4"}).headers
        assert (other["x-shipway-arm"], other["x-shipway-fallback"]) == ("baseline", "candidate/4")


def test_docs_and_metrics(server: Server) -> None:
    with server.client() as client:
        client.post("/invocations", json={"inputs": 1})
        document = client.get("/openapi.json").json()
        rows = document["paths"]["/invocations"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert rows["properties"]["dataframe_records"]["items"]["properties"]["visits"]["format"] == "int64"
        page = client.get("/docs").text
        assert "<code>POST /invocations</code>" in page
        assert "http://" not in page, "nothing comes from elsewhere"
        metrics = client.get("/metrics").text
    assert 'shipway_requests_total{kind="invocations",model="model",status="400",version="0"}' in metrics
    assert "shipway_log_dropped_total 0.0" in metrics


def test_the_log_holds_what_was_asked_and_answered(server: Server, model: Path, expected: list[str]) -> None:
    body = {"dataframe_split": json.loads(ROWS.to_json(orient="split"))}
    facts = {"x-shipway-assigned": "baseline/9", "x-envoy-attempt-count": "2", "host": "gateway-shadow:80"}
    with server.client() as client:
        client.post("/invocations", json=body, headers={**facts, "x-request-id": "logged-1"})
        client.post("/invocations", content=b"nonsense", headers={"x-request-id": "logged-2", "host": "gateway:80"})
    deadline = time.monotonic() + 2
    found = {}
    while len(found) < 2 and time.monotonic() < deadline:
        records = [one for path in segments(server.segments) for one in scan_segment(path).records]
        found = {one.request_id: one for one in records if one.request_id.startswith("logged")}
        time.sleep(0.05)
    good, bad = found["logged-1"], found["logged-2"]
    assert (good.assigned, good.attempt, good.mirrored, good.version, good.status) == ("baseline/9", 2, True, "0", 200)
    assert (bad.status, bad.mirrored, bad.request) == (400, False, b"nonsense")
    assert abs(good.time_ns - time.time_ns()) < 10e9
    assert 0 < good.latency_ns < 10e9
    signature = load_signature(model)
    inputs = decode_request(good.kind, good.content_type, good.request_header_length, good.request, signature)
    assert inputs["city"] == ["Rome", "Oslo", "Rome", "Bonn"]
    answers = decode_response(good.kind, good.response_content_type, good.response_header_length, good.response)
    assert answers.tolist() == expected


def test_a_body_over_the_limit_is_413(server: Server) -> None:
    with server.client() as client:
        answer = client.post("/invocations", content=b"x" * (65 << 20), headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert answer.headers["connection"] == "close"


def test_sigterm_under_load_finishes_what_is_in_flight(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "segments"
    rows = pd.concat([ROWS] * 500, ignore_index=True)
    body = json.dumps({"dataframe_split": json.loads(rows.to_json(orient="split", index=False))}).encode()
    outcomes: list[int] = []
    closing = threading.Event()

    with launch("--bento", str(model), "--drain-seconds", "0.6", segments_folder=folder) as server:

        def ask() -> None:
            with server.client() as client:
                while not closing.is_set():
                    answer = client.post("/invocations", content=body, headers={"content-type": "application/json"})
                    outcomes.append(answer.status_code)
                    if answer.headers.get("connection") == "close":
                        closing.set()

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert httpx.get(f"{server.address}/readyz").status_code == 503, "it still answers, and is not ready"
        for thread in threads:
            thread.join(20)
        assert server.process.wait(20) == 0
    assert closing.is_set()
    assert set(outcomes) == {200}
    logged = [one for path in segments(folder) for one in scan_segment(path).records]
    assert len(logged) == len(outcomes), "nothing is lost on a drain"


def wait_for_socket(path: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                return
        assert time.monotonic() < deadline, "the server was not ready in 30 s"
        time.sleep(0.05)


def test_a_unix_socket_is_private_and_a_stale_one_is_taken_over(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "run" / "server.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    command = [
        sys.executable,
        "-m",
        "bentos.serving.launcher",
        "--bento",
        str(model),
        "--uds",
        str(path),
        "--drain-seconds",
        "0",
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        wait_for_socket(path)
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://server") as client:
            assert client.get("/ping").status_code == 200
        assert path.stat().st_mode & 0o777 == 0o600
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert second.returncode == 1
        assert "another server answers there" in second.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert not path.exists()


@pytest.mark.parametrize("damage", ["missing", "no MLmodel", "corrupt"])
def test_what_cannot_be_loaded_ends_with_one_line(model: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "bento"
    if damage != "missing":
        folder.mkdir()
    if damage == "corrupt":
        for path in model.iterdir():
            if path.is_file():
                (folder / path.name).write_bytes(b"broken" if path.suffix in (".pkl", ".skops") else path.read_bytes())
    command = [sys.executable, "-m", "bentos.serving.launcher", "--bento", str(folder), "--port", "0"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert found.returncode == 1
    assert found.stderr.startswith("shipway launcher: ")
    assert found.stderr.count("\n") == 1, found.stderr
    assert str(folder) in found.stderr


def test_a_port_in_use_is_named(model: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        command = [sys.executable, "-m", "bentos.serving.launcher", "--bento", str(model), "--port", port]
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert found.returncode == 1
    assert f"--port {port}" in found.stderr


def test_the_launcher_imports_neither_bentoml_nor_mlflow(model: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import bentos.serving.launcher, bentos.serving.start, bentos.serving.follow.handover, bentos.serving.server.drain\n"
        "from bentos.serving.server.served_model import ServedModel; from bentos.serving.server.dataplane import DataPlane\n"
        f"DataPlane(ServedModel.load(Path({str(model)!r}))).close()\n"
        "print(sorted({'bentoml', 'mlflow', 'prefect', 'pydantic', 'fastapi', 'requests'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, env=dict(os.environ))  # fmt: skip
    assert found.stdout.strip() == "[]", found.stderr
