"""The share of invalid input rows against its bound."""

import pytest

from bentos.policy.metrics import SchemaMetric
from monitoring.interface import Outcome
from monitoring.metrics.input_schema import judge
from monitoring.metrics.interface import Levels

LEVELS = Levels(0.05, 0.01)


@pytest.mark.parametrize(
    ("n", "invalid", "most", "expected"),
    [
        (400, 0, 0.05, Outcome.PROMOTE),
        (30, 0, 0.05, Outcome.INCONCLUSIVE),
        (400, 20, 0.05, Outcome.INCONCLUSIVE),
        (400, 80, 0.05, Outcome.ROLLBACK),
        (2, 1, 0.05, Outcome.INCONCLUSIVE),
        (400, 1, 0.0, Outcome.ROLLBACK),
        (400, 0, 0.0, Outcome.PROMOTE),
        (400, 400, 1.0, Outcome.PROMOTE),
        (0, 0, 0.05, Outcome.INCONCLUSIVE),
    ],
)
def test_outcomes(make_evidence, n, invalid, most, expected) -> None:
    verdict = judge(make_evidence("shadow", n, invalid=invalid), SchemaMetric(max_invalid=most), LEVELS)
    assert verdict.outcome is expected


def test_needs_are_enough(make_evidence) -> None:
    few = judge(make_evidence("shadow", 30), SchemaMetric(), LEVELS)
    assert few.needs is not None
    assert judge(make_evidence("shadow", 30 + few.needs), SchemaMetric(), LEVELS).outcome is Outcome.PROMOTE
