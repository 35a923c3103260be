"""Every form of answer: MLflow's client, Triton's over HTTP and gRPC, batch and the wire check agree with MLflow in process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from bentos.policy.release import ReleasePolicy
from bentos.serving.batch.score import score_file
from bentos.serving.batch.source import BatchError
from flows.release.check import compare_answers, predict_in_process
from infra.targets.interface import Address
from monitoring.evidence.check import CheckResult
from monitoring.verdict import judge_wire
from tests.bentos.answers import BY_REQUEST, FORMS, ROWS, in_process, outputs, rows
from tests.bentos.saved import IGNORED
from tests.bentos.servers import ROOT, Server, launch

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORED]
SHORT = ("onnx", "dict, uneven")
FORMS_HERE = [
    pytest.param(form, marks=() if form in SHORT else pytest.mark.long("models"), id=form.replace(" ", "-"))
    for form in FORMS
]


class Asked(NamedTuple):
    """A model's server, what it is asked, and what MLflow's own loader answers in process."""

    form: str
    folder: Path
    server: Server
    grpc: str
    given: Any
    expected: dict[str, list[Any]]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Asked]]:
    """The server of a form, started once."""
    with ExitStack() as stack:

        @cache
        def start(form: str) -> Asked:
            home = tmp_path_factory.mktemp("form")
            folder = FORMS[form](home / "model", False)
            options = ("--bento", str(folder), "--model", "m", "--grpc-uds", str(home / "grpc.sock"))
            server = stack.enter_context(launch(*options, segments_folder=home / "log"))
            given = rows(form)
            return Asked(form, folder, server, f"unix:{home}/grpc.sock", given, in_process(form, folder, given))

        yield start


def agree(found: dict[str, list[Any]], asked: Asked) -> None:
    assert found.keys() == asked.expected.keys()
    for name, values in asked.expected.items():
        assert found[name] == values, name


@pytest.mark.parametrize("form", FORMS_HERE)
def test_mlflows_client_agrees(asked: Callable[[str], Asked], form: str) -> None:
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    one = asked(form)
    host, port = one.server.address.removeprefix("http://").split(":")
    given = one.given["X"] if isinstance(one.given, dict) else one.given  # it cannot send tensors by name
    answer = ScoringServerClient(host, port).invoke(given)
    agree(outputs(answer["predictions"]), one)
    assert len(answer.get_predictions()) == (1 if form in BY_REQUEST and form != "dict, uneven" else ROWS)


@pytest.mark.parametrize("how", ["json", "binary", "grpc"])
@pytest.mark.parametrize("form", FORMS_HERE)
def test_tritons_clients_agree(asked: Callable[[str], Asked], form: str, how: str) -> None:
    one = asked(form)
    triton: Any = triton_grpc if how == "grpc" else triton_http
    given = one.given if isinstance(one.given, dict) else {name: one.given[name].to_numpy() for name in one.given}
    inputs = [triton.InferInput(name, list(array.shape), "FP64") for name, array in given.items()]
    for tensor, array in zip(inputs, given.values(), strict=True):
        tensor.set_data_from_numpy(array, **({} if how == "grpc" else {"binary_data": how == "binary"}))
    if how == "grpc":
        with triton.InferenceServerClient(one.grpc) as client:
            answer = client.infer("m", inputs)
            names = [output.name for output in answer.get_response().outputs]
    else:
        client = triton.InferenceServerClient(one.server.address.removeprefix("http://"))
        wanted = [] if how == "binary" else None
        answer = client.infer("m", inputs, outputs=wanted)
        names = [output["name"] for output in answer.get_response()["outputs"]]
        client.close()
    agree(outputs({name: answer.as_numpy(name) for name in names}), one)


def checked(folder: Path, one: Asked, where: Path) -> CheckResult:
    """The check of the version at *folder*, whose deployment is the server of *one*."""
    given = one.given if isinstance(one.given, pd.DataFrame) else pd.DataFrame({"X": list(one.given["X"])})
    prepared: Any = SimpleNamespace(
        python=Path(sys.executable), code=ROOT, bento=SimpleNamespace(path=folder), artifacts=folder
    )
    host, port = one.server.address.removeprefix("http://").split(":")
    predict_in_process(prepared, given, where)
    return compare_answers(prepared, Address(host=host, port=int(port)), given, ReleasePolicy(), where)


@pytest.mark.parametrize("form", FORMS_HERE)
def test_the_wire_check_agrees_and_says_what_differs(asked: Callable[[str], Asked], tmp_path: Path, form: str) -> None:
    one = asked(form)
    found = checked(one.folder, one, tmp_path / "same")
    assert found.equal, found
    assert found.rows == (3 if form in BY_REQUEST else ROWS)
    other = checked(FORMS[form](tmp_path / "model", True), one, tmp_path / "other")
    assert other.mismatches > 0 and other.errors == 0
    assert other.first.startswith("answer ") and " over the wire, " in other.first and " in process" in other.first
    left, right = other.first.split(": ", 1)[1].removesuffix(" in process").split(" over the wire, ")
    assert left != right
    assert other.first in judge_wire("1", "2", other).reason


@pytest.mark.parametrize("form", [p for p in FORMS_HERE if p.values != ("onnx tensors",)])
def test_batch_agrees(asked: Callable[[str], Asked], tmp_path: Path, form: str) -> None:
    one = asked(form)
    source, output, rejects = (tmp_path / f"{name}.parquet" for name in ("in", "out", "rejects"))
    one.given.rename(columns=str).to_parquet(source)
    if form in BY_REQUEST:
        with pytest.raises(BatchError, match="batch needs one answer a row"):
            score_file(one.folder, source, output, rejects)
        assert not output.exists()
        return
    assert score_file(one.folder, source, output, rejects).predicted == ROWS
    table = pq.read_table(output).drop_columns(list(one.given.columns))
    agree(outputs({name: np.array(table[name].to_pylist(), dtype=object) for name in table.column_names}), one)
