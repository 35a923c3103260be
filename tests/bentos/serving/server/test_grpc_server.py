"""gRPC by itself, asked by Triton's own client, over a unix socket and over TCP."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as messages
from tritonclient.utils import InferenceServerException

from bentos.serving.log.segments import scan_segment, segments
from bentos.serving.server.dataplane import Prediction
from bentos.serving.server.errors import refused
from bentos.serving.server.grpc_server import GrpcServer
from bentos.serving.server.messages import Answer, Request
from bentos.serving.wire.interface import Body
from tests.bentos.saved import logistic, numbers

HOST = Path(__file__).with_name("grpc_host.py")
INFER = "/inference.GRPCInferenceService/ModelInfer"


class Host:
    """A process of grpc_host.py with a real model behind it."""

    def __init__(self, model: Path, folder: Path, address: str, name: str = "numbers", version: str = "7") -> None:
        self.socket, self.log = str(folder / "http.sock"), folder / "log"
        command = [sys.executable, str(HOST), str(model), name, version, self.socket, address, str(self.log)]
        self.process = subprocess.Popen(command, cwd=HOST.parents[3], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        port = self.process.stdout.readline().split()[-1]
        self.address = address if address.startswith("unix:") else f"127.0.0.1:{port}"

    def rest(self, body: dict[str, Any]) -> dict[str, Any]:
        connection = http.client.HTTPConnection("host", timeout=20)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(self.socket)
        connection.request("POST", "/v2/models/numbers/infer", json.dumps(body))
        found = json.loads(connection.getresponse().read())
        connection.close()
        return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return logistic(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module", params=["unix", "tcp"])
def host(request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("g")
    found = Host(model, folder, f"unix:{folder}/grpc.sock" if request.param == "unix" else "127.0.0.1:0")
    yield found
    found.process.kill()
    found.process.communicate()


@pytest.fixture
def client(host: Host) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(host.address) as found:
        yield found


def columns(rows: int, seed: int = 1) -> list[triton.InferInput]:
    frame = numbers(rows, seed)
    found = []
    for name in frame:
        tensor = triton.InferInput(name, [rows], "FP64")
        tensor.set_data_from_numpy(frame[name].to_numpy())
        found.append(tensor)
    return found


def wanted(*names: str) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name) for name in names]


def test_server_and_model_say_what_they_are(host: Host, client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("numbers")
    assert client.is_model_ready("numbers", "7")
    assert client.get_server_metadata().name == "shipway"
    found = client.get_model_metadata("numbers")
    assert (found.name, list(found.versions)) == ("numbers", ["7"])
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in found.inputs] == [
        ("a", "FP64", [-1]),
        ("b", "FP64", [-1]),
        ("c", "FP64", [-1]),
    ]
    assert [tensor.name for tensor in found.outputs] == ["predict", "predict_proba"]


def test_numbers_are_those_of_rest_to_the_bit(host: Host, client: triton.InferenceServerClient) -> None:
    frame = numbers(50, 1)
    inputs = [{"name": n, "datatype": "FP64", "shape": [50], "data": frame[n].tolist()} for n in frame]
    rest = host.rest({"inputs": inputs, "outputs": [{"name": "predict"}, {"name": "predict_proba"}]})
    expected = {output["name"]: np.array(output["data"]).reshape(output["shape"]) for output in rest["outputs"]}
    raw = client.infer("numbers", columns(50), outputs=wanted("predict", "predict_proba"))
    typed = messages.ModelInferRequest(model_name="numbers")
    for name in frame:
        typed.inputs.add(name=name, datatype="FP64", shape=[50]).contents.fp64_contents.extend(frame[name])
    typed.outputs.add(name="predict_proba")
    answer = client._client_stub.ModelInfer(typed)
    assert not answer.raw_output_contents
    for name, values in expected.items():
        assert raw.as_numpy(name).dtype == values.dtype
        assert raw.as_numpy(name).tolist() == values.tolist()
    assert list(answer.outputs[0].contents.fp64_contents) == expected["predict_proba"].ravel().tolist()


def test_the_answer_says_who_gave_it_and_is_logged(host: Host, client: triton.InferenceServerClient) -> None:
    asked = messages.ModelInferRequest(model_name="numbers", id="5")
    for name, values in numbers(2, 3).items():
        asked.inputs.add(name=str(name), datatype="FP64", shape=[2])
        asked.raw_input_contents.append(values.to_numpy().tobytes())
    metadata = [("x-request-id", f"grpc-{host.process.pid}"), ("x-shipway-assigned", "candidate/7")]
    answer, call = client._client_stub.ModelInfer.with_call(asked, metadata=metadata)
    headers = dict(call.initial_metadata())
    assert (answer.model_version, answer.id) == ("7", "5")
    assert headers["x-shipway-model"] == "numbers"
    assert (headers["x-shipway-version"], headers["x-shipway-arm"]) == ("7", "candidate")
    assert headers["x-request-id"] == f"grpc-{host.process.pid}"
    records = []
    for _ in range(100):
        records = [
            r
            for path in segments(host.log)
            for r in scan_segment(path).records
            if r.request_id == headers["x-request-id"]
        ]
        if records:
            break
        signal.sigtimedwait([], 0.05)
    assert [(r.kind, r.status, r.assigned) for r in records] == [("grpc", 200, "candidate/7")]
    assert messages.ModelInferRequest.FromString(records[0].request) == asked
    assert messages.ModelInferResponse.FromString(records[0].response) == answer


def test_what_is_wrong_has_its_code_and_words(client: triton.InferenceServerClient) -> None:
    for ask in (lambda: client.infer("other", columns(1)), lambda: client.get_model_metadata("numbers", "9")):
        with pytest.raises(InferenceServerException, match="expected the model 'numbers', version '7'") as error:
            ask()
        assert error.value.status() == "StatusCode.NOT_FOUND"
    with pytest.raises(InferenceServerException, match="missing") as error:
        client.infer("numbers", columns(1)[:2])
    assert error.value.status() == "StatusCode.INVALID_ARGUMENT"
    big = triton.InferInput("a", [7 << 20], "FP64")
    big.set_data_from_numpy(np.zeros(7 << 20))
    with pytest.raises(InferenceServerException) as error:
        client.infer("numbers", [big])
    assert error.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
    with pytest.raises(InferenceServerException) as error:
        client.get_model_repository_index()
    assert error.value.status() == "StatusCode.UNIMPLEMENTED"


def test_a_client_that_compresses_is_understood(client: triton.InferenceServerClient) -> None:
    found = client.infer("numbers", columns(500), compression_algorithm="gzip")
    assert found.as_numpy("predict").shape == (500,)


VALID = messages.ModelInferRequest(model_name="numbers")
for column in "abc":
    VALID.inputs.add(name=column, datatype="FP64", shape=[2])
    VALID.raw_input_contents.append(np.arange(2.0).tobytes())
BYTES = VALID.SerializeToString()


def code_of(channel: grpc.Channel, body: bytes, path: str = INFER) -> grpc.StatusCode:
    try:
        channel.unary_unary(path)(body, timeout=20)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80), st.integers(0, len(BYTES)), st.integers(0, 30))
def test_no_bytes_are_an_internal_error(host: Host, channel: grpc.Channel, put: bytes, at: int, cut: int) -> None:
    fine = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
    assert code_of(channel, put) in fine
    assert code_of(channel, BYTES[:at] + put + BYTES[at + cut :]) in fine
    assert code_of(channel, put, "/inference.GRPCInferenceService/ModelMetadata") in fine
    assert code_of(channel, BYTES) is grpc.StatusCode.OK
    assert host.process.poll() is None


@pytest.fixture
def channel(host: Host) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(host.address) as found:
        yield found


class Said:
    """A plane at the seam: it answers what it is told, after *seconds*."""

    def __init__(self, found: Answer, seconds: float = 0.0) -> None:
        self.found, self.seconds = found, seconds
        self.largest_body = 1 << 20
        self.asked: list[Request] = []

    def resolve(self, method: str, path: str) -> Prediction:
        assert (method, path) == ("POST", INFER)
        return Prediction("grpc", None)  # type: ignore[arg-type] # no model answers here

    def predict(self, served: Any, request: Request, done: Any) -> None:
        self.asked.append(request)
        if self.seconds:
            asyncio.get_running_loop().call_later(self.seconds, done, self.found)
        else:
            done(self.found)


async def ask(plane: Any, **options: Any) -> tuple[grpc.StatusCode, str, dict[str, str], bytes]:
    server = GrpcServer(plane, ["127.0.0.1:0"])
    assert await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.ports[0]}") as channel:
        call = channel.unary_unary(INFER)(BYTES, **options)
        try:
            body, details = await call, ""
        except grpc.aio.AioRpcError as error:
            body, details = b"", error.details() or ""
        found = await call.code(), details, dict(await call.trailing_metadata()), body
    await server.stop(1.0)
    return found


STATUSES = {
    400: "INVALID_ARGUMENT",
    404: "NOT_FOUND",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_of_the_plane_has_its_code(status: int) -> None:
    headers = ((b"x-shipway-version", b"7"), (b"retry-after", b"3"))
    code, words, trailing, _ = asyncio.run(ask(Said(refused("grpc", status, "wòrds")._replace(headers=headers))))
    assert (code.name, words) == (STATUSES[status], "wòrds")
    assert trailing["retry-after"] == "3"


def test_the_clients_deadline_reaches_the_plane() -> None:
    plane = Said(Answer(200, Body(b"")))
    asyncio.run(ask(plane, timeout=7.0))
    asyncio.run(ask(plane))
    assert 6.0 < (plane.asked[0].seconds or 0) < 8.0
    assert plane.asked[1].seconds is None


def test_a_call_in_flight_is_finished_when_the_server_stops() -> None:
    async def stopped() -> tuple[bytes, grpc.StatusCode]:
        plane = Said(Answer(200, Body(b"answer")), seconds=0.4)
        server = GrpcServer(plane, ["127.0.0.1:0"])  # type: ignore[arg-type]
        assert await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.ports[0]}") as channel:
            first = asyncio.ensure_future(channel.unary_unary(INFER)(BYTES))
            while not plane.asked:
                await asyncio.sleep(0.01)
            stopping = asyncio.create_task(server.stop(5.0))
            await asyncio.sleep(0.1)
            second = channel.unary_unary(INFER)(BYTES)
            code = await second.code()
            await stopping
            return await first, code

    assert asyncio.run(stopped()) == (b"answer", grpc.StatusCode.UNAVAILABLE)


def test_a_draining_server_is_live_but_not_ready(model: Path, tmp_path: Path) -> None:
    from bentos.serving.server.grpc_calls import answer_unary
    from bentos.serving.server.served_model import ServedModel

    live = ServedModel.load(model, "numbers", "7")
    for method, kind in (("ServerReady", "ServerReadyResponse"), ("ModelReady", "ModelReadyResponse")):
        body = messages.ModelReadyRequest(name="numbers").SerializeToString() if method == "ModelReady" else b""
        for ready in (True, False):
            found = answer_unary(method, body, live, ready=ready)
            assert getattr(messages, kind).FromString(found.body.data).ready is ready
    found = answer_unary("ServerLive", b"", live, ready=False)
    assert messages.ServerLiveResponse.FromString(found.body.data).live


def test_without_grpcio_there_is_one_line_and_no_server(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "grpc.aio", None)
    with caplog.at_level("INFO", logger="shipway.server"):
        assert asyncio.run(GrpcServer(Said(Answer(200, Body(b""))), ["127.0.0.1:0"]).start()) is False  # type: ignore[arg-type]
    assert [record.message for record in caplog.records if "no gRPC here" in record.message] == [
        "no gRPC here: import of grpc.aio halted; None in sys.modules. Install grpcio and protobuf beside the model to have it."
    ]


def test_an_address_that_is_taken_is_said(model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match=f"gRPC cannot listen on {address}"):
            asyncio.run(GrpcServer(Said(Answer(200, Body(b""))), [address]).start())  # type: ignore[arg-type]
