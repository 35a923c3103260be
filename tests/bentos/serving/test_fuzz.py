"""No bytes end a real server or make it fail: mutated bodies, wrong headers and bombs are 200 or 4xx on every endpoint."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bentos.serving.server.messages import Request
from tests.bentos.forms import FORMS
from tests.bentos.planes import Client
from tests.bentos.saved import IGNORED, numbers
from tests.bentos.servers import Server, launch
from tests.bentos.zoo import FIELDS, MODELS

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORED]

PATHS = {
    "invocations": "/invocations",
    "v2": "/v2/models/m/infer",
    "grpc": "/inference.GRPCInferenceService/ModelInfer",
}
TYPES = {"invocations": "application/json", "v2": "application/json", "grpc": "application/x-protobuf"}
LARGEST_MB = 4
GROWTH = 150 << 20  # bytes: a few bodies of the largest size, decoded, and the caches of a server
MIXED = {"n": [1, 2], "x": [0.5, None], "flag": [True, False], "s": ["é", 'a,"b"'], "when": [0, 10**18], "y": [1.5, None], "note": ["", None], "k": [7, None], "maybe": [None, True], "end": [None, 5]}  # fmt: skip
ROWS: dict[str, Any] = {
    "logistic regression": pa.Table.from_pandas(numbers(3)),
    "onnx tensors": {"x": np.ones((2, 2), "f4"), "n": np.array([1, -(2**63)])},
    "array regression": numbers(3).to_numpy(),
    "echo native": pa.table({name: pa.array(values, FIELDS[name]) for name, values in MIXED.items()}),
}
"""Models over columns, named tensors, one tensor and mixed columns, and rows that fit each."""


class Target:
    """A launcher, what it is asked, and what it was like before."""

    def __init__(self, server: Server, model: str) -> None:
        self.server = server
        self.port = int(server.address.rpartition(":")[2])
        self.process = psutil.Process(server.process.pid)
        self.valid = list(_valid(model))

    def ask(self, request: Request) -> int:
        """The status of *request* as it goes over the wire, however wrong it is."""
        pairs = [("content-type", request.content_type), ("content-encoding", request.encoding), ("accept", request.accept)]  # fmt: skip
        pairs.append(("inference-header-content-length", request.header_length))
        more = "".join(f"{name}: {value}\r\n" for name, value in pairs if value)
        head = f"POST {PATHS[request.kind]} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(request.body)}\r\n{more}\r\n"
        with Client(self.port, 20) as client:
            status, _, body = client.send(head.encode("latin-1") + request.body).answer()
        assert status == 200 or 400 <= status < 500, (status, body[:500], request)
        return status

    def sound(self) -> bool:
        """Whether it is alive and answers what it should."""
        return self.process.is_running() and {self.ask(request) for request in self.valid} == {200}


def _valid(model: str) -> Iterator[Request]:
    """A request in every form that carries the rows of *model*."""
    carried = {
        "logistic regression": [form for form in FORMS if form != "v2 matrix"],
        "onnx tensors": ["instances", "inputs", "arrow", "v2", "v2 binary", "grpc raw", "grpc typed"],
        "array regression": ["split", "csv", "npy", "arrow to arrow", "v2", "v2 binary", "grpc raw"],
        "echo native": ["split", "records", "instances", "inputs", "csv", "arrow", "gzip", "split to arrow"],
    }
    for form in carried[model]:
        yield FORMS[form](ROWS[model], [])


@pytest.fixture(scope="module", params=list(ROWS))
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("fuzz")
    bento = MODELS[request.param][0](folder / "model")
    options = ["--bento", str(bento), "--model", "m", "--largest-body-mb", str(LARGEST_MB)]
    with launch(*options, segments_folder=folder / "log") as server:
        yield Target(server, request.param)


fuzz = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
put = st.binary(max_size=8) | st.sampled_from(
    [b"NaN", b"1e999", b"-", b"null", b"9" * 400, b'"\\ud800"', b"\xff\xfe", b"\0", b"[" * 300, b'{"a":' * 300, b"18446744073709551616", b"4611686018427387904", b'"data"', b'"shape"', b'"columns":', b",", b"\x7f\xf8\0\0\0\0\0\1", b"\xff" * 8]
)  # fmt: skip
cuts = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 12), put), max_size=3)
contents = st.sampled_from(["application/json", "text/csv", "application/x-npy", "application/vnd.apache.arrow.stream", "application/octet-stream", "", "text/csv; charset=utf-8", "application/json; charset=x", ";;="])  # fmt: skip
printable = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12)
lengths = st.integers(-1, 700).map(str) | st.sampled_from(["", "0", "9" * 30, "0x1"]) | printable


def mutated(body: bytes, cuts: list[tuple[int, int, bytes]]) -> bytes:
    """*body* with pieces replaced at places that its length says."""
    for at, size, piece in cuts:
        at %= len(body) + 1
        body = body[:at] + piece + body[at + size :]
    return body


@fuzz
@given(data=st.data(), changes=cuts, doubled=st.booleans())
def test_mutated_bodies(target: Target, data: st.DataObject, changes: Any, doubled: bool) -> None:
    request = data.draw(st.sampled_from(target.valid))
    body = mutated(request.body, changes)
    target.ask(request._replace(body=body + body[len(body) // 2 :] if doubled else body))


@fuzz
@given(data=st.data(), kind=st.sampled_from(sorted(PATHS)), content=contents | printable, encoding=st.sampled_from(["", "gzip", "deflate", "gzip, gzip", "br", "identity"]) | printable, accept=contents | printable, length=lengths)  # fmt: skip
def test_bodies_of_one_form_under_the_headers_of_another(target: Target, data: st.DataObject, kind: str, content: str, encoding: str, accept: str, length: str) -> None:  # fmt: skip
    body = data.draw(st.sampled_from([request.body for request in target.valid]) | st.binary(max_size=60))
    if encoding == "gzip" and data.draw(st.booleans()):
        body = gzip.compress(body)
    target.ask(Request(kind, content, encoding, length, body, accept))


@fuzz
@given(data=st.data(), changes=cuts)
def test_compressed_bodies_that_are_torn(target: Target, data: st.DataObject, changes: Any) -> None:
    request = data.draw(st.sampled_from(target.valid))
    pack = data.draw(st.sampled_from([gzip.compress, zlib.compress]))
    encoding = "gzip" if pack is gzip.compress else "deflate"
    target.ask(request._replace(body=mutated(pack(request.body), changes), encoding=encoding))


DEEP = 100_000
BOMBS: dict[str, bytes] = {
    "arrays": b"[" * DEEP,
    "closed arrays": b'{"inputs":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "objects": b'{"inputs":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
    "deep split": b'{"dataframe_split":{"data":' + b"[" * DEEP + b"]" * DEEP + b"}}",
    "deep and NaN": b'{"inputs":[NaN' + b"[" * DEEP + b"]" * DEEP + b"]}",
    "deep params": b'{"inputs":[[1,2,3]],"params":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep unknown field": b'{"inputs":[[1,2,3]],"x":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep outputs": b'{"inputs":[{"name":"a","shape":[1],"datatype":"FP64","data":[1]}],"outputs":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "a number of a million digits": b'{"inputs":[[' + b"9" * 1_000_000 + b"]]}",
    "an exponent": b'{"inputs":[[1e99999999999,1,1]]}',
    "keys twice": b'{"inputs":[[1,2,3]],"inputs":[[1,2,3]]}',
    "a lone surrogate": b'{"dataframe_records":[{"\\ud800":1}]}',
    "a huge shape": json.dumps({"inputs": [{"name": "a", "shape": [2**62, 2**62], "datatype": "FP64", "data": [1]}]}).encode(),
    "a huge empty shape": json.dumps({"inputs": [{"name": "a", "shape": [0, 2**62], "datatype": "FP64", "data": []}]}).encode(),
    "many columns": json.dumps({"dataframe_split": {"columns": [str(n) for n in range(50_000)], "data": [[0] * 50_000]}}).encode(),
    "many rows of nothing": b'{"instances":[' + b"[]," * 200_000 + b"[]]}",
    "many fields": b"{" + b",".join(b'"%d":0' % n for n in range(100_000)) + b"}",
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(BOMBS))
@pytest.mark.parametrize("kind", ["invocations", "v2"])
def test_json_bombs(target: Target, kind: str, what: str) -> None:
    target.ask(Request(kind, TYPES[kind], "", "", BOMBS[what]))


@cache
def bomb(encoding: str) -> bytes:
    """Zeros, many times longer than what may be sent."""
    body = bytes(200 << 20 if encoding == "gzip, gzip" else 20 << 20)
    for coding in encoding.split(", "):
        body = gzip.compress(body, 1) if coding == "gzip" else zlib.compress(body, 1)
    return body


@pytest.mark.parametrize("kind", sorted(PATHS))
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "gzip, gzip"])
def test_compressed_bombs_are_413(target: Target, kind: str, encoding: str) -> None:
    body = bomb(encoding)
    assert len(body) < LARGEST_MB << 20
    assert target.ask(Request(kind, TYPES[kind], encoding, "", body)) == 413


def test_after_all_that_it_is_the_same_server(target: Target) -> None:
    assert target.sound()
    resident = target.process.memory_info().rss
    for _ in range(3):
        for what in ("closed arrays", "many columns", "many fields"):
            target.ask(Request("invocations", TYPES["invocations"], "", "", BOMBS[what]))
    for request in target.valid * 100:
        target.ask(request)
    assert target.process.memory_info().rss < resident + GROWTH
    with target.server.client() as client:
        assert client.get("/readyz").json()["ready"]
    assert target.server.process.poll() is None
