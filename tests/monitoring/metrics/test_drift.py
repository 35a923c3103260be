"""Drift gates only what the policy bounds, on windows large enough for it."""

from dataclasses import replace

import pytest

from bentos.policy.metrics import DriftMetric
from monitoring.evidence.evidence import ColumnDrift, Drift
from monitoring.interface import MetricVerdict, Outcome
from monitoring.metrics.drift import judge
from monitoring.metrics.interface import Levels, Silent

LEVELS = Levels(0.05, 0.05)


def inputs(*scores: float, rows: int = 400) -> tuple[ColumnDrift, ...]:
    return tuple(ColumnDrift(f"c{i}", "psi", score, 0.25, rows) for i, score in enumerate(scores))


@pytest.mark.parametrize(
    ("policy", "given", "n", "expected"),
    [
        ({}, {"prediction_drift": 0.1}, 400, Outcome.PROMOTE),
        ({}, {"prediction_drift": 0.4}, 400, Outcome.ROLLBACK),
        ({}, {"prediction_drift": 0.4}, 200, Outcome.INCONCLUSIVE),
        ({}, {"input_drift": inputs(0.9, 0.9)}, 400, Outcome.PROMOTE),  # told, not gated
        ({"max_share": 0.5}, {"input_drift": inputs(0.9, 0.1)}, 400, Outcome.PROMOTE),
        ({"max_share": 0.4}, {"input_drift": inputs(0.9, 0.1)}, 400, Outcome.ROLLBACK),
        ({"max_share": 0.4}, {"input_drift": inputs(0.9, 0.1, rows=50)}, 400, Outcome.INCONCLUSIVE),
        ({"max_share": 0.4}, {}, 400, Outcome.INCONCLUSIVE),  # a gate with no reference
    ],
)
def test_outcomes(make_evidence, policy, given, n, expected) -> None:
    verdict = judge(make_evidence("shadow", n, **given), DriftMetric(**policy), LEVELS)
    assert isinstance(verdict, MetricVerdict)
    assert verdict.outcome is expected


def test_no_gate_is_silent_and_tells(make_evidence) -> None:
    silent = judge(
        make_evidence("shadow", 400, input_drift=inputs(0.9, 0.1)), DriftMetric(max_prediction_drift=None), LEVELS
    )
    assert isinstance(silent, Silent)
    assert silent.why == "1 of 2 input columns drifted; reported only"
    assert silent.numbers["drifted"] == "c0 0.90"


def test_uncomputed_drift_is_inconclusive_and_says_why(make_evidence) -> None:
    evidence = replace(make_evidence("shadow", 400), drift=Drift(note="no joined predictions"))
    verdict = judge(evidence, DriftMetric(), LEVELS)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "no joined predictions" in verdict.why


def test_a_split_has_no_joined_predictions(make_evidence) -> None:
    assert isinstance(judge(make_evidence("split", 400), DriftMetric(), LEVELS), Silent)
