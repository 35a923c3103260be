"""The same rows get the same answer, to the bit, in every format and protocol, in batch, joined with others, in process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bentos.serving.batch.score import score_file
from bentos.serving.model.loaders.results import normalise
from bentos.serving.model.profile import CONVERTED
from bentos.serving.server.dataplane import INFER, DataPlane
from bentos.serving.server.messages import Answer, Request
from bentos.serving.server.served_model import ServedModel
from bentos.serving.wire.interface import Body
from tests.bentos.forms import FORMS, PROBABILITIES, answer, columns, frame, read, same, wanted
from tests.bentos.planes import Client
from tests.bentos.planes import served as running
from tests.bentos.saved import IGNORED
from tests.bentos.zoo import DRAWN, MODELS, NAMES, numbers

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORED]

_NO_NULLS = {"npy": "nulls, but NaN and NaT", "v2": "nulls, but NaN", "grpc": "nulls, but NaN"}
CANNOT: dict[tuple[str, str], str] = {
    ("csv", "named"): "tensors of several dimensions",
    ("npy", "named"): "tensors by name",
    ("npy to npy", "named"): "tensors by name",
    **{(form, "named"): "tensors of several dimensions" for form in FORMS if form.startswith("arrow")},
    ("instances", "mixed"): "columns left out: rows without names are whole",
    ("csv", "mixed, null"): "an empty text beside a null",
    ("split to npy", "onnx"): "answers by name",
    ("npy to npy", "onnx"): "answers by name",
    ("split to npy", "onnx tensors"): "answers by name",
    ("split to npy", "echo table"): "answers by name",
    ("npy to npy", "echo table"): "answers by name",
    **{(form, kind): "columns of several types" for form in ("v2 matrix", "v2 binary matrix") for kind in ("mixed", "mixed, null", "mixed, any null")},
    **{(form, kind): _NO_NULLS[form.split()[0]] for form in FORMS for kind in ("mixed, null", "mixed, any null") if form.split()[0] in _NO_NULLS and "matrix" not in form},
    ("mlflow", "mixed, any null"): "a null among whole numbers and booleans",
    ("mlflow", "echo native"): "columns left out as nulls: an estimator is not given them",
    ("mlflow", "onnx"): "outputs of several widths: it fails to make a table of them",
    **{("mlflow", model): "the converted model" for model in MODELS if model.endswith("sealed")},
    ("batch", "named"): "tensors of several dimensions",
}  # fmt: skip
"""(form, kind of input or model) → what that form cannot carry."""


def _pairs(*forms: str) -> list[Any]:
    found = [(model, kind, form) for model, (_, kinds) in MODELS.items() for kind in kinds for form in forms]
    return [p for p in found if (p[2], p[0]) not in CANNOT and (p[2], p[1]) not in CANNOT]


ROW_BY_ROW = ("random forest", "boosting", "echo native")  # so written, whatever a few rows showed

few = settings(max_examples=8, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", autouse=True)
def as_in_a_child() -> Iterator[None]:
    """One thread, as the launcher has it: OpenMP's would wait for each other longer than they work. Short measurements."""
    import sklearn.ensemble  # noqa: F401 brings the OpenMP that is to be limited
    from threadpoolctl import threadpool_limits

    from bentos.serving.model import latency_profile

    with pytest.MonkeyPatch.context() as patch, threadpool_limits(1):
        patch.setattr(latency_profile, "SECONDS", 0.01)
        patch.setattr(latency_profile, "ALONE_SECONDS", 0.1)
        yield


class Served:
    """A model of the zoo, loaded as a server loads it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, MODELS[name][0](folder)
        self.live = ServedModel.load(self.folder, "m", "3")
        self.runner = self.live.runner
        assert (self.runner.profile.runtime in CONVERTED) == name.endswith("sealed"), self.runner.profile.reason
        names = [str(name) for name in self.runner.predict(self.runner.plan.synthetic()).outputs()]
        names = ["predict"] if names == ["prediction"] else names
        self.outputs = [*names, PROBABILITIES] if self.live.probabilities else names

    def expected(self, drawn: Any) -> dict[str, np.ndarray]:
        """The answer in process, with probabilities where there are any."""
        return wanted(self.runner.predict(frame(drawn), probabilities=self.live.probabilities))

    def check(self, drawn: Any, found: Answer) -> None:
        """*found* is the answer to *drawn*."""
        assert found.status == 200, found.reason
        equal(read(found), self.expected(drawn))


def equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Every output is there, to the bit; probabilities may be left out."""
    assert expected.keys() - {PROBABILITIES} <= found.keys() <= expected.keys()
    for name, array in found.items():
        assert same(array, expected[name]), f"{name}: found {array!r}, expected {expected[name]!r}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Served]:
    """The model of a name, saved and loaded once."""
    return cache(lambda name: Served(name, tmp_path_factory.mktemp("zoo") / "model"))


@pytest.mark.parametrize(("model", "kind", "form"), _pairs(*FORMS))
def test_every_form_answers_as_in_process(served: Callable[[str], Served], model: str, kind: str, form: str) -> None:
    which = served(model)

    @few
    @given(DRAWN[kind])
    def check(drawn: Any) -> None:
        which.check(drawn, answer(which.live, FORMS[form](drawn, which.outputs)))

    check()


@pytest.mark.parametrize(("model", "kind", "form"), _pairs("mlflow"))
def test_mlflow_answers_the_same(served: Callable[[str], Served], model: str, kind: str, form: str) -> None:
    import mlflow.pyfunc

    which = served(model)
    theirs = mlflow.pyfunc.load_model(str(which.folder))

    @few
    @given(DRAWN[kind])
    def check(drawn: Any) -> None:
        found = normalise(theirs.predict(frame(drawn)))
        named = {n: found[n].to_numpy() for n in found} if hasattr(found, "iloc") else found
        ours = wanted(which.runner.predict(frame(drawn)))
        if isinstance(named, dict):
            assert named.keys() == ours.keys()
        for name, array in named.items() if isinstance(named, dict) else [("prediction", named)]:
            # MLflow's frame of a tensor of several dimensions has lists in its cells
            plain = np.array(array.tolist(), ours[name].dtype) if array.dtype == object else array
            assert same(plain, ours[name])

    check()


@pytest.mark.parametrize(("model", "kind", "form"), _pairs("batch"))
def test_batch_answers_the_same(served: Callable[[str], Served], tmp_path: Path, model: str, kind: str, form: str) -> None:  # fmt: skip
    which = served(model)

    @settings(few, max_examples=4)
    @given(DRAWN[kind])
    def check(drawn: Any) -> None:
        table = drawn if isinstance(drawn, pa.Table) else pa.table(dict(zip(NAMES, drawn.T, strict=True)))
        source, output, rejects = (tmp_path / f"{name}.parquet" for name in ("in", "out", "rejects"))
        pq.write_table(table, source)
        score_file(which.folder, source, output, rejects, probabilities=which.live.probabilities)
        assert not pq.read_metadata(rejects).num_rows
        found = columns(pq.read_table(output).drop_columns(table.column_names))
        probabilities = [found.pop(name) for name in list(found) if name.startswith("probability_")]
        equal(
            found | ({PROBABILITIES: np.stack(probabilities, axis=1)} if probabilities else {}), which.expected(drawn)
        )

    check()


@pytest.mark.parametrize(("model", "kind", "form"), _pairs("joined"))
def test_requests_answered_together_are_answered_as_alone(served: Callable[[str], Served], model: str, kind: str, form: str) -> None:  # fmt: skip
    which = served(model)
    forms = sorted({pair[2] for pair in _pairs(*FORMS) if pair[:2] == (model, kind)})
    live = replace(which.live, rowwise=True) if model in ROW_BY_ROW else which.live
    seen: set[int] = set()

    @settings(few, max_examples=20)
    @given(st.lists(st.tuples(DRAWN[kind], st.sampled_from(forms)), min_size=2, max_size=12))
    def check(asked: list[tuple[Any, str]]) -> None:
        requests = [FORMS[form](drawn, which.outputs) for drawn, form in asked]
        answers, together = asyncio.run(_together(live, requests))
        seen.add(together)
        for (drawn, _), found in zip(asked, answers, strict=True):
            which.check(drawn, found)

    check()
    assert max(seen) > 1 or not live.rowwise


@pytest.mark.parametrize("model", ["logistic regression", "onnx", "boosting, sealed"])
def test_over_a_socket_the_bytes_are_the_same(served: Callable[[str], Served], model: str) -> None:
    which = served(model)
    drawn = pa.Table.from_pandas(numbers(7, seed=3))
    paths = {"invocations": "/invocations", "v2": "/v2/models/m/infer", "grpc": INFER}
    with running(DataPlane(which.live)) as port, Client(port) as client:
        for form in sorted({pair[2] for pair in _pairs(*FORMS) if pair[:2] == (model, "doubles")}):
            asked = FORMS[form](drawn, which.outputs)
            head = f"POST {paths[asked.kind]} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(asked.body)}\r\n"
            for name, value in (
                ("content-type", asked.content_type),
                ("content-encoding", asked.encoding),
                ("accept", asked.accept),
                ("inference-header-content-length", asked.header_length),
            ):
                head += f"{name}: {value}\r\n" if value else ""
            status, headers, data = client.send(f"{head}\r\n".encode() + asked.body).answer()
            length = int(headers.get("inference-header-content-length", 0))
            which.check(drawn, Answer(status, Body(data, headers["content-type"], length), data.decode("latin-1")))


async def _together(live: ServedModel, requests: Sequence[Request]) -> tuple[list[Answer], int]:
    """The answers to *requests* that came in one turn of the loop, and how many a predict answered on average."""
    plane = DataPlane(live, batching="batched")
    counted: list[int] = []
    plane.state.metrics.batch = counted.append  # type: ignore[method-assign] # beside the histogram
    loop = asyncio.get_running_loop()
    waiting = [loop.create_future() for _ in requests]
    for request, future in zip(requests, waiting, strict=True):
        plane.predict(plane.state.live, request, future.set_result)
    answers = await asyncio.gather(*waiting)
    plane.close()
    return answers, len(requests) // len(counted)


@pytest.mark.parametrize("form", sorted(form for form, kind in CANNOT if kind == "onnx" and form in FORMS))
def test_an_answer_that_a_form_cannot_hold_is_refused(served: Callable[[str], Served], form: str) -> None:
    which = served("onnx")
    found = answer(which.live, FORMS[form](pa.Table.from_pandas(numbers(2)), which.outputs))
    assert (found.status, "by name" in found.reason) == (406, True)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_an_arrow_stream_with_compressed_buffers_is_not_a_form_that_is_read(
    served: Callable[[str], Served], compression: str
) -> None:
    table, sink = pa.Table.from_pandas(numbers(2)), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    request = FORMS["arrow"](table, [])._replace(body=sink.getvalue().to_pybytes())
    found = answer(served("ridge").live, request)
    assert found.status == 415
    assert b"found compressed buffers, which are not read" in found.body.data
