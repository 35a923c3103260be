"""Latency by quantile bounds; what was not answered is infinitely slow."""

import numpy as np
import pytest

from bentos.policy.metrics import LatencyMetric
from monitoring.interface import Outcome
from monitoring.metrics.interface import Levels
from monitoring.metrics.latency import judge, samples

LEVELS = Levels(promote=0.05, rollback=0.01)
POLICY = LatencyMetric(quantile=0.95, max_ratio=2.0, slack_ms=10.0)
N = 800
NOISE = np.exp(0.5 * np.random.default_rng(0).normal(size=N))
EVERY_TENTH = np.arange(N) % 10 < 2


@pytest.mark.parametrize("stage", ["shadow", "split"])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"candidate_ms": 3 * NOISE, "baseline_ms": 3 * NOISE[::-1]}, Outcome.PROMOTE),
        ({"candidate_ms": 5 * NOISE, "baseline_ms": 3 * NOISE[::-1]}, Outcome.PROMOTE),  # within ratio and slack
        ({"candidate_ms": 60 * NOISE, "baseline_ms": 3 * NOISE[::-1]}, Outcome.ROLLBACK),
        ({"candidate_ms": np.where(EVERY_TENTH, 400.0, 3.0)}, Outcome.ROLLBACK),  # slow on a fifth
        ({"candidate_ms": 200 * NOISE, "baseline_ms": 150 * NOISE[::-1]}, Outcome.PROMOTE),
        ({"candidate_ms": 200 * NOISE, "baseline_ms": 102 * NOISE[::-1]}, Outcome.INCONCLUSIVE),  # at the bound
    ],
)
def test_outcomes(make_evidence, stage, given, expected) -> None:
    assert judge(make_evidence(stage, N, **given), POLICY, LEVELS).outcome is expected


def test_failed_and_fallen_back_are_infinitely_slow(make_evidence) -> None:
    failing = make_evidence("shadow", N, candidate_status=np.where(EVERY_TENTH, 500.0, 200.0))
    assert judge(failing, POLICY, LEVELS).outcome is Outcome.ROLLBACK
    replaced = make_evidence("split", N, fallback=EVERY_TENTH)
    candidate, baseline = samples(replaced)
    assert np.isinf(candidate).sum() == (EVERY_TENTH & (np.arange(N) % 2 == 0)).sum()
    assert np.isfinite(baseline).all()
    assert judge(replaced, POLICY, LEVELS).outcome is Outcome.ROLLBACK


def test_few_requests_say_how_many_more(make_evidence) -> None:
    verdict = judge(make_evidence("shadow", 20), POLICY, LEVELS)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.needs is not None
    assert verdict.needs > 30
    assert verdict.numbers["candidate_upper_ms"] is None
    assert judge(make_evidence("shadow", 0), POLICY, LEVELS).outcome is Outcome.INCONCLUSIVE


def test_a_silent_baseline_does_not_make_the_candidate_good(make_evidence) -> None:
    evidence = make_evidence("split", N, assigned=np.repeat("candidate", N))
    assert judge(evidence, POLICY, LEVELS).outcome is Outcome.INCONCLUSIVE
