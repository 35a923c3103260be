"""Classes by their share of different answers, numbers by the mean difference; requests are the unit."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bentos.policy.metrics import DisagreementMetric
from monitoring.interface import MetricVerdict, Outcome
from monitoring.metrics.disagreement import judge
from monitoring.metrics.interface import Levels, Silent

LEVELS = Levels(promote=0.05, rollback=0.01)
N = 600
ROW = np.arange(N)
NUMBERS = np.random.default_rng(2).normal(10, 3, N)


def flipped(percent: int) -> np.ndarray:
    return np.where(percent > ROW % 100, 0.0, 1.0)[np.random.default_rng(1).permutation(N)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Outcome.PROMOTE),
        ({"candidate": flipped(8)}, Outcome.PROMOTE),
        ({"candidate": flipped(20)}, Outcome.INCONCLUSIVE),
        ({"candidate": flipped(35)}, Outcome.ROLLBACK),
        ({"baseline": "late", "candidate": "late"}, Outcome.PROMOTE),
        ({"baseline": "late", "candidate": "early"}, Outcome.ROLLBACK),
        ({"baseline": True, "candidate": 1}, Outcome.PROMOTE),  # one class, however it is written
    ],
)
def test_classes(make_evidence, given, expected) -> None:
    verdict = judge(make_evidence("shadow", N, **given), DisagreementMetric(), LEVELS)
    assert isinstance(verdict, MetricVerdict)
    assert verdict.outcome is expected


@pytest.mark.parametrize(
    ("shift", "expected"),
    [(0.0, Outcome.PROMOTE), (0.6, Outcome.PROMOTE), (6.0, Outcome.ROLLBACK), (-6.0, Outcome.ROLLBACK)],
)
def test_numbers(make_evidence, shift, expected) -> None:
    evidence = make_evidence("shadow", N, baseline=NUMBERS, candidate=NUMBERS + shift)
    verdict = judge(evidence, DisagreementMetric(max_mean_difference=0.5), LEVELS)
    assert verdict.outcome is expected


def test_numbers_without_a_bound_are_told(make_evidence) -> None:
    silent = judge(make_evidence("shadow", N, baseline=NUMBERS, candidate=NUMBERS + 3), DisagreementMetric(), LEVELS)
    assert isinstance(silent, Silent)
    assert silent.numbers["mean_difference"] == pytest.approx(3 / NUMBERS.std())


def test_a_request_of_many_rows_counts_once(make_evidence) -> None:
    evidence = make_evidence("shadow", 60)
    big = pd.concat([evidence.answers.assign(row=i) for i in range(100)])
    one = big["request_id"] == "r3"
    big.loc[one, "candidate"] = 0.0
    verdict = judge(replace(evidence, answers=big), DisagreementMetric(), LEVELS)
    assert verdict.numbers["requests"] == 60
    assert verdict.numbers["rate"] == pytest.approx(1 / 60)


def test_a_split_has_no_joined_answers(make_evidence) -> None:
    assert isinstance(judge(make_evidence("split", N), DisagreementMetric(), LEVELS), Silent)
    # Both arms answered where the candidate was late: no pair by chance, and no ground to judge on.
    evidence = make_evidence("split", N)
    hedged = evidence.answers.assign(baseline=1.0, candidate=0.0)
    assert isinstance(judge(replace(evidence, answers=hedged), DisagreementMetric(), LEVELS), Silent)


def test_a_shadow_without_joined_answers_is_inconclusive(make_evidence) -> None:
    verdict = judge(make_evidence("shadow", N, candidate=np.nan), DisagreementMetric(), LEVELS)
    assert verdict.outcome is Outcome.INCONCLUSIVE


def test_bounds_of_the_rate_at_their_ends(make_evidence) -> None:
    none = DisagreementMetric(max_rate=0.0)
    assert judge(make_evidence("shadow", N), none, LEVELS).outcome is Outcome.INCONCLUSIVE
    assert judge(make_evidence("shadow", N, candidate=flipped(1)), none, LEVELS).outcome is Outcome.ROLLBACK
    assert isinstance(
        judge(make_evidence("shadow", N, candidate=0.0), DisagreementMetric(max_rate=1.0), LEVELS), Silent
    )
