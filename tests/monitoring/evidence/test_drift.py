"""Drift as Evidently scores it, on columns of every kind."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bentos.policy.metrics import DriftMetric
from monitoring.evidence.drift import MOST_ROWS, binned, compute_drift
from monitoring.evidence.evidence import Drift

N = 1000
POLICY = DriftMetric()


def frame(seed: int, n: int = N) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "normal": rng.normal(size=n),
            "skewed": rng.lognormal(0, 2, n),
            "counts": rng.poisson(1.0, n),
            "carrier": rng.choice(["AA", "UA", "DL"], n),
            "many": [f"t{i}" for i in rng.integers(0, 5000, n)],
            "flag": rng.random(n) < 0.3,
            "constant": 1.0,
            "empty": pd.Series([None] * n, dtype=object),
            "some": np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)),
            "objects": pd.Series([*rng.normal(size=n - 1), None], dtype=object),
        }
    )


# Importing evidently imports its web interface, which calls what litestar deprecated, and reads the old numpy.core.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Deprecated in litestar:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:numpy.core is deprecated:DeprecationWarning"),
]

NOTHING = pd.DataFrame({"baseline": [], "candidate": []})


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Drift, Path]:
    html = tmp_path_factory.mktemp("drift") / "report" / "drift.html"
    rng = np.random.default_rng(9)
    predictions = pd.DataFrame({"baseline": rng.normal(size=N), "candidate": rng.normal(size=N) + 1})
    reference = pd.DataFrame({"baseline": rng.normal(size=N), "candidate": rng.normal(size=N)})
    drift = compute_drift(frame(0), predictions, frame(1), POLICY, html, reference_predictions=reference)
    return drift, html


def test_equal_samples_do_not_drift_whatever_the_column(whole) -> None:
    scores = {column.column: column.score for column in whole[0].inputs}
    assert set(scores) == set(frame(0).columns)
    assert all(0 <= score < 0.1 for score in scores.values()), scores


def test_predictions_are_scored_against_each_other_and_the_reference(whole) -> None:
    scores = {column.column: column.score for column in whole[0].predictions}
    assert scores["candidate_vs_baseline"] > 0.5
    assert scores["candidate_vs_reference"] > 0.5
    assert scores["baseline_vs_reference"] < 0.1
    assert whole[0].rows == N


def test_the_report_loads_nothing_from_elsewhere(whole) -> None:
    text = whole[1].read_text()
    assert "input: carrier" in text
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=[\"']?(https?:)?//", text)


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("normal", lambda x: x + 1),
        ("skewed", lambda x: x * 10),
        ("counts", lambda x: x + 1),
        ("carrier", lambda x: x.replace("DL", "ZZ")),
        ("flag", lambda x: ~x),
        ("constant", lambda x: x + 1),
        ("constant", lambda x: x - 1),
        ("empty", lambda x: x.fillna("now there")),
        ("some", lambda x: x.where(np.arange(N) % 2 == 0)),
        ("objects", lambda x: x.map(str)),
    ],
)
def test_a_change_is_seen(column, change) -> None:
    live = frame(0)
    live[column] = change(live[column])
    drift = compute_drift(live[[column]], NOTHING, frame(1)[[column]], POLICY)
    assert drift.inputs[0].score > POLICY.threshold


def test_small_windows_of_equal_samples_rarely_pass_the_threshold() -> None:
    scores = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        equal = pd.DataFrame({f"c{i}": rng.lognormal(size=300) for i in range(10)})
        reference = pd.DataFrame({f"c{i}": rng.lognormal(size=5000) for i in range(10)})
        scores += [column.score for column in compute_drift(equal, NOTHING, reference, POLICY).inputs]
    assert len(scores) == 100
    assert max(scores) < POLICY.threshold


def test_classes_are_one_class_however_they_are_written() -> None:
    predictions = pd.DataFrame({"baseline": [1.0, 0.0] * 200, "candidate": pd.Series([1, 0] * 200, dtype=object)})
    assert compute_drift(NOTHING, predictions, None, POLICY).predictions[0].score == 0.0


def test_what_cannot_be_computed_is_said() -> None:
    drift = compute_drift(frame(0), NOTHING, None, POLICY)
    assert (drift.inputs, drift.predictions, drift.note) == ((), (), "no reference; no joined predictions")
    partly = compute_drift(frame(0)[["normal"]], NOTHING, frame(1)[["normal", "carrier"]], POLICY)
    assert [column.column for column in partly.inputs] == ["normal"]
    assert "not in the live inputs: carrier" in partly.note
    assert compute_drift(frame(0)[:0], NOTHING, frame(1), POLICY).inputs == ()


def test_large_samples_are_thinned_evenly_and_always_alike() -> None:
    column = pd.Series(np.arange(10 * MOST_ROWS, dtype=float))
    current, reference = binned(column, column)
    assert current.size == MOST_ROWS
    assert np.array_equal(current, binned(column, column)[0])
    assert np.array_equal(current, reference)


def test_the_rows_of_a_score_are_those_of_the_smaller_sample() -> None:
    drift = compute_drift(frame(0, 50)[["normal"]], NOTHING, frame(1)[["normal"]], POLICY)
    assert drift.inputs[0].rows == 50
