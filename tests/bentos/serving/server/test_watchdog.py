"""A model that hangs: its server becomes unready, ends, and is started again by whoever keeps it; others are refused at once."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bentos.serving.log.segments import scan_segment, segments
from bentos.serving.server.dataplane import DataPlane
from bentos.serving.server.watchdog import EXIT, LEAST_SECONDS
from tests.bentos.planes import BODY, Client, Sums, live, post, served
from tests.bentos.saved import IGNORED, numbers, save
from tests.bentos.servers import Server, launch

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORED]
DEADLINE = 3.0
SLEEPS, SPINS = -1.0, -2.0  # in the first column: it lets go of the interpreter's lock, or keeps it


def body(value: float) -> dict[str, Any]:
    return {"dataframe_split": {"columns": ["a", "b", "c"], "data": [[value, 0.5, 0.5]]}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mlflow.pyfunc import PythonModel

    class Hangs(PythonModel):
        def predict(self, context, model_input, params=None):
            if model_input["a"].iloc[0] == SLEEPS:
                time.sleep(3600)
            if model_input["a"].iloc[0] == SPINS:
                re.match(r"(a|a)*$", "a" * 64 + "b")  # in C, and longer than anybody lives
            return model_input["a"].to_numpy()

    frame = numbers()
    folder = tmp_path_factory.mktemp("model") / "model"
    return save("pyfunc", None, folder, frame, frame["a"].to_numpy(), python_model=Hangs())


@pytest.fixture
def server(model: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """The batching as the test's parameter says."""
    arguments = ("--bento", str(model), "--deadline-seconds", str(DEADLINE), "--drain-seconds", "0")
    with launch(*arguments, "--batching", request.param, segments_folder=tmp_path) as found:
        yield found


@pytest.mark.parametrize("server", ["off"], indirect=True)
def test_a_predict_that_hangs_ends_its_server_and_is_counted_against_its_version(server: Server) -> None:
    with server.client() as client:
        began = time.monotonic()
        assert client.post("/invocations", json=body(SLEEPS)).status_code == 504
        assert time.monotonic() - began < 2 * DEADLINE
        assert client.get("/livez").status_code == 200, "it may come to an end still"
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["reason"][:21]) == (503, "a predict has run for")
        assert client.get("/v2/health/ready").status_code == 503
        began = time.monotonic()
        behind = client.post("/invocations", json=body(0.5))
        assert behind.status_code == 503 and "before its end" in behind.json()["message"]
        assert time.monotonic() - began < DEADLINE / 2, "nobody waits behind it"
    assert server.process.wait(20) == EXIT
    found = [record for path in segments(server.segments) for record in scan_segment(path)[0]]
    assert sorted(record.status for record in found) == [503, 504], "the log is written out"


@pytest.mark.parametrize("server", ["auto"], indirect=True)  # it was measured to be short, and runs on the loop
def test_a_predict_that_keeps_the_interpreters_lock_ends_its_server(server: Server) -> None:
    def ask() -> None:
        with pytest.raises(httpx.TransportError), httpx.Client(timeout=60) as client:
            client.post(f"{server.address}/invocations", json=body(SPINS))

    asking = threading.Thread(target=ask)
    asking.start()
    began = time.monotonic()
    assert server.process.wait(LEAST_SECONDS + 15) not in (0, None)
    assert time.monotonic() - began > LEAST_SECONDS / 2, "a busy moment is no hang"
    asking.join()


def test_a_long_predict_that_ends_makes_its_server_ready_again() -> None:
    ends = threading.Event()

    class Held(Sums):
        def predict(self, data: Any, params: Any, *, probabilities: bool = False) -> Any:
            assert ends.wait(60)
            return super().predict(data, params, probabilities=probabilities)

    plane = DataPlane(live(Held(), {1: 1.0}), deadline=0.3)
    with served(plane) as port, Client(port) as slow, Client(port) as client:

        def until(path: str, wanted: int) -> None:
            deadline = time.monotonic() + 20
            while client.send(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()).answer()[0] != wanted:
                assert time.monotonic() < deadline, f"{path} did not become {wanted}"
                time.sleep(0.02)

        assert slow.send(post(BODY)).answer()[0] == 504
        until("/readyz", 503)
        until("/livez", 503)
        ends.set()
        until("/readyz", 200)
        until("/livez", 200)
        assert client.send(post(BODY)).answer()[0] == 200


def test_one_worker_that_hangs_is_replaced_and_the_others_answer(model: Path, tmp_path: Path) -> None:
    arguments = ("--bento", str(model), "--deadline-seconds", "2", "--drain-seconds", "0", "--workers", "2")
    arguments += ("--batching", "off")
    with launch(*arguments, segments_folder=tmp_path) as server:
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
        first = set(children.read_text().split())
        with server.client() as client:
            assert client.post("/invocations", json=body(SLEEPS)).status_code == 504
        deadline = time.monotonic() + 60
        while len(first & set(children.read_text().split())) != 1 or len(children.read_text().split()) != 2:
            assert time.monotonic() < deadline, "the worker was not replaced"
            time.sleep(0.1)
        for _ in range(4):
            with server.client() as client:
                assert client.post("/invocations", json=body(0.5)).json() == {"predictions": [0.5]}
