"""Every form of answer as evidence: equal answers are equal, one other value shows, labels join the right output."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bentos.policy.metrics import DisagreementMetric, DriftMetric, LabelMetric, Metrics
from bentos.serving.inputs.signature import Signature
from bentos.serving.log.segments import Record
from bentos.serving.log.writer import SegmentWriter
from bentos.serving.server.messages import Request
from bentos.serving.server.served_model import ServedModel
from monitoring.evidence.drift import compute_drift
from monitoring.evidence.evidence import Evidence, load
from monitoring.interface import MetricVerdict, Outcome
from monitoring.log.pairs import LogReader
from monitoring.metrics import disagreement, labels
from monitoring.metrics.interface import Levels, Silent
from monitoring.report.summary import summarise
from tests.bentos.answers import BY_REQUEST, FORMS, rows
from tests.bentos.forms import answer
from tests.bentos.logged import put
from tests.bentos.saved import IGNORED

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORED]
LEVELS = Levels(promote=0.05, rollback=0.01)
T0 = 1_700_000_000_000_000_000
Serve = Callable[[str, bool], ServedModel]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """The model of a form, and the one that answers something else."""
    home = tmp_path_factory.mktemp("models")

    @cache
    def of(form: str, shifted: bool) -> ServedModel:
        return ServedModel.load(FORMS[form](home / f"{form}-{shifted}", shifted), "m", "2" if shifted else "1")

    yield of


def request(form: str, kind: str, seed: int) -> Request:
    """Four rows in the protocol *kind*."""
    given = rows(form, seed, count=4)
    columns = given if isinstance(given, dict) else {name: given[name].to_numpy() for name in given}
    if kind == "v2":
        inputs = [
            {"name": name, "datatype": "FP64", "shape": array.shape, "data": array.ravel().tolist()}
            for name, array in columns.items()
        ]
        return Request("v2", "", "", "", json.dumps({"inputs": inputs}).encode())
    body = {"inputs": {name: array.tolist() for name, array in columns.items()}}
    return Request("invocations", "application/json", "", "", json.dumps(body).encode())


def evidence(
    folder: Path,
    arms: tuple[ServedModel, ServedModel],
    asked: list[Request],
    *,
    output: str | None = None,
    truth: Callable[[int], Any] | None = None,
) -> Evidence:
    """What the log of both *arms*, asked the same, comes to; *truth*: the label of a request by its number."""
    signature: Signature = arms[0].runner.signature
    for arm, (live, version) in enumerate(zip(arms, ("1", "2"), strict=True)):
        writer = SegmentWriter(folder / "segments" / "m" / version, flush_seconds=60)
        for number, one in enumerate(asked):
            found = answer(live, one)
            assert found.status == 200, found.reason
            put(
                writer,
                Record(
                    f"r{number}", T0 + number, "baseline/1", arm == 1, 1, version, 200, 1_000_000, one.kind,
                    one.content_type, 0, found.body.content_type, found.body.header_length, one.body, found.body.data,
                ),
            )  # fmt: skip
        writer.close()
    if truth is not None:
        (folder / "labels").mkdir()
        lines = [
            json.dumps({"request_id": f"r{n}", "value": truth(n), "received_ns": T0 + n}) for n in range(len(asked))
        ]
        (folder / "labels" / "2023-11-14T22.jsonl").write_text("\n".join(lines) + "\n")
    reader = LogReader(
        folder,
        model="m",
        baseline="1",
        candidate="2",
        since_ns=T0,
        signature=signature,
        output=output,
        clock=lambda: T0,
    )
    reader.poll()
    found = reader.evidence("shadow")
    assert found.notes == ()
    found.save(folder / "kept")
    kept = load(folder / "kept")
    assert kept.answers.astype(object).fillna("-").equals(found.answers.astype(object).fillna("-"))
    return kept


def differing(found: Evidence) -> float:
    """How far apart the metric says the answers are: a rate, or standard deviations."""
    verdict: MetricVerdict | Silent = disagreement.judge(found, DisagreementMetric(), LEVELS)
    return abs(float(verdict.numbers.get("rate", verdict.numbers.get("mean_difference")) or 0.0))


@pytest.mark.parametrize("kind", ["invocations", "v2"])
@pytest.mark.parametrize("form", FORMS)
def test_equal_answers_are_equal_and_one_other_value_shows(served: Serve, tmp_path: Path, form: str, kind: str) -> None:
    one, other = served(form, False), served(form, True)
    asked = [request(form, kind, seed) for seed in range(12)]
    same = evidence(tmp_path / "same", (one, one), asked)
    assert len(same.answers) == 12 * (1 if form in BY_REQUEST else 4)
    assert differing(same) == 0.0
    apart = evidence(tmp_path / "apart", (one, other), asked)
    assert differing(apart) > 0.0
    drift = [compute_drift(e.inputs[[]], e.answers, None, DriftMetric()).predictions for e in (same, apart)]
    assert drift[0] and max(column.score for column in drift[0]) == 0.0
    assert max(column.score for column in drift[1]) > 0.0
    assert any(share > 0 for share in summarise(apart).series["answers that differ"])


@pytest.mark.parametrize("kind", ["invocations", "v2"])
@pytest.mark.parametrize("form", ["onnx", "onnx zipmap", "onnx tensors", "dict", "records"])
def test_labels_join_the_output_that_is_the_label(served: Serve, tmp_path: Path, form: str, kind: str) -> None:
    one, other = served(form, False), served(form, True)
    asked = [request(form, kind, seed) for seed in range(30)]

    def truth(number: int) -> list[int]:
        given = rows(form, number, count=4)
        prediction = one.runner.predict(given)
        values = prediction.values if isinstance(prediction.values, dict) else {"": prediction.values}
        found = next((values[name] for name in ("label", "output_label") if name in values), None)
        return [row["label"] for row in values[""]] if found is None else found.tolist()

    found = evidence(tmp_path / "log", (one, other), asked, truth=truth)
    pairs = found.answers
    assert pairs["label"].tolist() == [value for number in range(30) for value in truth(number)]
    assert (pairs["baseline"] == pairs["label"]).all() and not (pairs["candidate"] == pairs["label"]).any()
    assert labels.paired(pairs, LabelMetric()).tolist() == [-1.0] * 30
    verdict = labels.judge(found, LabelMetric(min_pairs=10), LEVELS)
    assert isinstance(verdict, MetricVerdict) and verdict.outcome is Outcome.ROLLBACK


def test_the_policy_says_which_output_is_compared(served: Serve, tmp_path: Path) -> None:
    one = served("onnx", False)
    asked = [request("onnx", "invocations", seed) for seed in range(12)]
    scores = evidence(tmp_path / "scores", (one, served("onnx", True)), asked, output="probabilities")
    assert disagreement.judge(scores, DisagreementMetric(), LEVELS).numbers["output"] in ("[0]", "[1]")
    missing = tmp_path / "missing"
    with pytest.raises(AssertionError, match="answers could not be decoded"):
        evidence(missing, (one, one), asked, output="propabilities")
    assert Metrics().output is None


def test_each_of_several_numbers_is_labelled(served: Serve, tmp_path: Path) -> None:
    one, other = served("regressions", False), served("regressions", True)
    asked = [request("regressions", "v2", seed) for seed in range(30)]

    def truth(number: int) -> Any:
        return one.runner.predict(rows("regressions", number, count=4)).values.tolist()

    found = evidence(tmp_path / "each", (one, other), asked, truth=truth)
    assert (labels.paired(found.answers, LabelMetric()) < 0).all()
    single = evidence(tmp_path / "one", (one, other), asked, truth=lambda number: [1.0] * 4)
    verdict = labels.judge(single, LabelMetric(required=True, min_pairs=10), LEVELS)
    assert (verdict.outcome, "differ in their form" in verdict.why) == (Outcome.INCONCLUSIVE, True)
    assert np.isfinite(labels.paired(found.answers, LabelMetric(loss="squared", scale=2.0))).all()
