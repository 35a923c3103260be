"""gRPC through a real Envoy to real model servers: split, mirrored, asked again, limited and logged as REST is."""

from __future__ import annotations

import json
import signal
import struct
import time
from collections import Counter

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as messages
from tritonclient.utils import InferenceServerException

from bentos.policy.serving import Limits
from bentos.serving.log.segments import scan_segment, segments
from infra.gateways.grpc import LARGEST_MESSAGE
from infra.targets.interface import Address
from infra.traffic import Arm, TrafficPlan
from tests.bentos.saved import logistic, numbers
from tests.bentos.serving.server.test_grpc_server import BYTES, INFER, Host, code_of, columns

SERVICE = "/inference.GRPCInferenceService/"
ODD = "a/ò b%"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hosts")


@pytest.fixture(scope="module")
def hosts(folder):
    """Versions 1 and 2 of one model, ready, by version; and a model with an odd name."""
    model = logistic(folder / "model")
    found = {}
    for name, version in (("numbers", "1"), ("numbers", "2"), (ODD, "3")):
        (folder / version).mkdir()
        found[version] = Host(model, folder / version, f"unix:{folder}/{version}/g.sock", name, version)
    yield found
    for host in found.values():
        host.process.kill()
        host.process.communicate()


def arm(name, host, version, weight, mirror=0.0):
    return Arm(name, version, f"grpc-{version}-aaaaaaaa", Address(uds=host.socket), weight, mirror)


def plan_of(hosts, weight=0, mirror=0.0, model="numbers", limits=None):
    limits = Limits(**(limits or {}))
    if model != "numbers":
        return TrafficPlan(model, (arm("baseline", hosts["3"], "3", 100),), None, limits, None)
    arms = (arm("baseline", hosts["1"], "1", 100 - weight), arm("candidate", hosts["2"], "2", weight, mirror))
    return TrafficPlan(model, arms, None, limits, time.time() + 600)


@pytest.fixture
def gateway(envoy, hosts):
    found, client = envoy
    found.apply(plan_of(hosts))
    yield found, client
    found.remove("numbers")


@pytest.fixture
def client(gateway):
    with triton.InferenceServerClient(f"127.0.0.1:{gateway[1].port}") as found:
        yield found


@pytest.fixture
def channel(gateway):
    with grpc.insecure_channel(f"127.0.0.1:{gateway[1].port}") as found:
        yield found


def ask(channel, number, **options):
    call = channel.unary_unary(INFER).with_call(
        BYTES, metadata=[("x-request-id", f"id-{number}")], timeout=20, **options
    )
    return messages.ModelInferResponse.FromString(call[0]), dict(call[1].initial_metadata())


def logged(host, prefix="id-"):
    time.sleep(0.3)
    records = [record for path in segments(host.log) for record in scan_segment(path).records]
    return [record for record in records if record.request_id.startswith(prefix)]


def test_the_gateway_answers_for_itself(envoy):
    with triton.InferenceServerClient(f"127.0.0.1:{envoy[1].port}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        found = client.get_server_metadata()
        assert (found.name, list(found.extensions)) == ("shipway", ["binary_tensor_data"])
        assert found.version


def test_tritons_client_is_answered_as_without_a_gateway(client, hosts):
    assert client.is_model_ready("numbers")
    assert client.get_model_metadata("numbers").versions == ["1"]
    inputs = columns(40)
    outputs = [triton.InferRequestedOutput("predict"), triton.InferRequestedOutput("predict_proba")]
    through = client.infer("numbers", inputs, outputs=outputs, request_id="9")
    with triton.InferenceServerClient(hosts["1"].address) as direct:
        alone = direct.infer("numbers", inputs, outputs=outputs, request_id="9")
    assert through.get_response() == alone.get_response()
    assert through.as_numpy("predict_proba").shape == (40, 2)


def test_calls_are_split_mirrored_counted_and_logged(gateway, channel, hosts):
    envoy, _ = gateway
    envoy.apply(plan_of(hosts, weight=40, mirror=100.0))
    before = {name: stats.requests for name, stats in envoy.stats("numbers").items()}
    versions = Counter()
    for number in range(200):
        answer, headers = ask(channel, f"split-{number}")
        assert headers["x-request-id"] == f"id-split-{number}"
        assert headers["x-shipway-version"] == answer.model_version
        assert headers["x-shipway-arm"] == {"1": "baseline", "2": "candidate"}[answer.model_version]
        versions[answer.model_version] += 1
    assert 40 < versions["2"] < 120
    one, two = logged(hosts["1"], "id-split-"), logged(hosts["2"], "id-split-")
    assert len(one) == versions["1"]
    assert Counter(record.mirrored for record in two) == {True: versions["1"], False: versions["2"]}
    assert {record.assigned for record in one} == {"baseline/1"}
    assert {(record.kind, record.status) for record in one + two} == {("grpc", 200)}
    assert {record.request for record in one + two} == {BYTES}
    after = {name: stats.requests for name, stats in envoy.stats("numbers").items()}
    assert after["grpc-1-aaaaaaaa"] - before["grpc-1-aaaaaaaa"] == versions["1"]
    assert after["grpc-2-aaaaaaaa"] - before.get("grpc-2-aaaaaaaa", 0) == 200
    assert envoy.plan("numbers").candidate.weight == 40


def test_a_frozen_candidates_calls_are_answered_by_the_baseline(gateway, channel, hosts):
    gateway[0].apply(plan_of(hosts, weight=50, limits={"candidate_timeout_seconds": 0.3}))
    hosts["2"].process.send_signal(signal.SIGSTOP)
    try:
        found = [ask(channel, f"frozen-{number}") for number in range(6)]
    finally:
        hosts["2"].process.send_signal(signal.SIGCONT)
    assert {answer.model_version for answer, _ in found} == {"1"}
    assert {headers.get("x-shipway-fallback") for _, headers in found} <= {None, "candidate/2"}


def test_a_long_message_is_answered_by_the_baseline_where_the_candidate_hangs(gateway, client, hosts):
    rows = 40 * 2**20 // 24
    gateway[0].apply(plan_of(hosts, weight=100, limits={"candidate_timeout_seconds": 0.5}))
    frame = numbers(rows, 1)
    inputs = [triton.InferInput(name, [rows], "FP64") for name in frame]
    for found in inputs:
        found.set_data_from_numpy(frame[found.name()].to_numpy())
    hosts["2"].process.send_signal(signal.SIGSTOP)
    try:
        answer = client.infer("numbers", inputs)
    finally:
        hosts["2"].process.send_signal(signal.SIGCONT)
    assert answer.get_response().model_version == "1"
    assert answer.as_numpy("predict").shape == (rows,)


def refused(call):
    with pytest.raises(InferenceServerException) as error:
        call()
    return error.value.status(), error.value.message()


def test_errors_come_with_their_code_and_words(client):
    code, words = refused(lambda: client.infer("nobody", columns(1)))
    assert code == "StatusCode.NOT_FOUND"
    assert words.startswith("no model of this name is served here; served: numbers")
    assert refused(lambda: client.is_model_ready("nobody"))[0] == "StatusCode.NOT_FOUND"
    code, words = refused(lambda: client.infer("numbers", columns(1), model_version="8"))
    assert code == "StatusCode.NOT_FOUND"
    assert "expected the model 'numbers', version '1'" in words
    code, words = refused(lambda: client.infer("numbers", columns(1)[:2]))
    assert code == "StatusCode.INVALID_ARGUMENT"
    assert "'c'" in words
    assert refused(lambda: client.get_model_repository_index())[0] == "StatusCode.UNIMPLEMENTED"
    code, words = refused(lambda: client.infer("numbers", columns(50), compression_algorithm="gzip"))
    assert code == "StatusCode.UNIMPLEMENTED"
    assert "without compression" in words


def test_a_name_with_odd_characters(envoy, hosts):
    envoy[0].apply(plan_of(hosts, model=ODD))
    try:
        with triton.InferenceServerClient(f"127.0.0.1:{envoy[1].port}") as client:
            assert client.infer(ODD, columns(2)).get_response().model_name == ODD
            assert "%C3%B2" not in refused(lambda: client.infer("ò", columns(1)))[1]
    finally:
        envoy[0].remove(ODD)


def rest_body(rows=3):
    frame = numbers(rows, 1)
    return json.dumps(
        {"inputs": [{"name": n, "datatype": "FP64", "shape": [rows], "data": frame[n].tolist()} for n in frame]}
    )


@pytest.mark.parametrize("weight", [10, 100])
def test_a_request_that_names_a_version_goes_to_the_arm_that_has_it(gateway, client, hosts, weight):
    gateway[0].apply(plan_of(hosts, weight=weight))
    for _ in range(10):
        for version, arm in (("1", "baseline"), ("2", "candidate")):
            path = f"/v2/models/numbers/versions/{version}"
            status, headers, _ = gateway[1].ask(f"{path}/infer", body=rest_body())
            found = status, headers["x-shipway-version"], headers["x-shipway-arm"], headers.get("x-shipway-fallback")
            assert found == (200, version, arm, None)
            assert gateway[1].ask(f"{path}/ready")[0] == 200
            assert json.loads(gateway[1].ask(path)[2])["versions"] == [version]
            assert client.infer("numbers", columns(3), model_version=version).get_response().model_version == version
            assert client.is_model_ready("numbers", version)
            assert client.get_model_metadata("numbers", version).versions == [version]
        status, headers, body = gateway[1].ask("/v2/models/numbers/versions/8/infer", body=rest_body())
        assert status == 404
        assert "version '1'" in json.loads(body)["error"]
        assert refused(lambda: client.infer("numbers", columns(1), model_version="8"))[0] == "StatusCode.NOT_FOUND"
        assert gateway[1].ask("/models/numbers/versions/1/invocations", body="{}")[0] == 404


def test_a_request_that_names_a_version_is_not_mirrored_to_another(gateway, client, channel, hosts):
    gateway[0].apply(plan_of(hosts, mirror=100.0))
    before = len(logged(hosts["2"], ""))
    for number in range(5):
        headers = {"x-request-id": f"named-{number}"}
        assert gateway[1].ask("/v2/models/numbers/versions/1/infer", headers, body=rest_body())[0] == 200
        assert client.infer("numbers", columns(3), model_version="1").get_response().model_version == "1"
        assert gateway[1].ask("/v2/models/numbers/versions/2/infer", headers, body=rest_body())[0] == 404
        assert refused(lambda: client.infer("numbers", columns(1), model_version="2"))[0] == "StatusCode.NOT_FOUND"
    ask(channel, "unnamed")
    assert len(logged(hosts["1"], "named-")) == 5
    assert [record.status for record in logged(hosts["2"], "")[before:]] == [200], "the copy of the unnamed one"


def test_a_rate_limit_covers_rest_and_grpc_together(gateway, channel, hosts):
    gateway[0].apply(plan_of(hosts, weight=10, limits={"requests_per_second": 5}))
    named = [f"/v2/models/numbers{version}/ready" for version in ("", "", "/versions/1", "/versions/1", "/versions/2")]
    assert [gateway[1].ask(path)[0] for path in named] == [200] * 5
    with pytest.raises(grpc.RpcError) as error:
        for number in range(10):
            ask(channel, f"limit-{number}")
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_what_nobody_answers_in_time_ends_with_the_deadline(gateway, channel, hosts):
    gateway[0].apply(plan_of(hosts, limits={"timeout_seconds": 0.5, "candidate_timeout_seconds": 0.3}))
    hosts["1"].process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(grpc.RpcError) as error:
            ask(channel, "late")
    finally:
        hosts["1"].process.send_signal(signal.SIGCONT)
    assert (error.value.code(), error.value.details()) == (
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "upstream request timeout",
    )


def test_messages_of_forty_megabytes_pass_and_longer_ones_than_allowed_do_not(client, hosts):
    rows = 40 * 2**20 // 24
    frame = numbers(rows, 1)
    inputs = []
    for name in frame:
        inputs.append(triton.InferInput(name, [rows], "FP64"))
        inputs[-1].set_data_from_numpy(frame[name].to_numpy())
    found = client.infer("numbers", inputs).as_numpy("predict")
    assert found.shape == (rows,)
    assert 0 < found.mean() < 1
    big = triton.InferInput("a", [LARGEST_MESSAGE], "UINT8")
    big.set_data_from_numpy(np.zeros(LARGEST_MESSAGE, dtype=np.uint8))
    assert refused(lambda: client.infer("numbers", [big]))[0] == "StatusCode.RESOURCE_EXHAUSTED"


def test_the_name_is_found_wherever_it_lies_in_the_message(channel):
    name = b"\x0a\x07numbers"
    rest = BYTES.removeprefix(name)
    assert rest != BYTES
    unknown = b"\xf8\x06\x01" + b"\xf9\x06" + bytes(8) + b"\xfd\x06" + bytes(4) + b"\xfa\x06\x02ab"
    for body in (rest + name, unknown + rest + name, unknown + BYTES):
        assert code_of(channel, body) is grpc.StatusCode.OK
    for body in (rest, b"", b"\x0a", b"\x0a\x00", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x0b", b"\x09a"):
        assert code_of(channel, body) is grpc.StatusCode.INVALID_ARGUMENT


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80), st.integers(0, len(BYTES)), st.integers(0, 30))
def test_no_bytes_are_an_internal_error(channel, put, at, cut):
    fine = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
    assert code_of(channel, put) in fine
    assert code_of(channel, BYTES[:at] + put + BYTES[at + cut :]) in fine
    assert code_of(channel, put, SERVICE + "ModelMetadata") in fine
    assert code_of(channel, BYTES) is grpc.StatusCode.OK


@pytest.mark.parametrize("frame", [b"", b"\x00", struct.pack(">BI", 0, 9), struct.pack(">BI", 0, 1) + b"abc"])
def test_a_broken_frame_is_the_clients_fault(gateway, frame):
    status, headers, _ = gateway[1].ask(INFER, {"content-type": "application/grpc", "te": "trailers"}, body=frame)
    assert (status, headers["grpc-status"]) == (200, "3")
    assert gateway[0].alive()


def test_rest_and_pages_that_are_not_there_answer_as_before(gateway):
    assert gateway[1].ask("/v2/models/numbers/ready")[0] == 200
    status, headers, _ = gateway[1].ask(SERVICE + "ModelInfer", body=b"{}")
    assert (status, headers["content-type"]) == (404, "application/json")
    assert "x-shipway-grpc-status" not in headers
