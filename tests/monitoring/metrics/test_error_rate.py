"""What counts as failed, by assignment, and what the counts come to."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bentos.policy.metrics import ErrorRateMetric
from monitoring.interface import Outcome
from monitoring.metrics.error_rate import judge
from monitoring.metrics.interface import Levels

LEVELS = Levels(promote=0.05, rollback=0.01)
POLICY = ErrorRateMetric(max_increase=0.01)


def first(n: int, k: int, value: float, rest: float = 200.0) -> np.ndarray:
    """k of n spread evenly are *value*."""
    column = np.full(n, rest)
    column[np.linspace(0, n - 1, k).astype(int)] = value
    return column


@pytest.mark.parametrize(
    ("n", "given", "expected"),
    [
        (400, {}, Outcome.PROMOTE),
        (100, {}, Outcome.INCONCLUSIVE),
        (400, {"candidate_status": first(400, 40, 500)}, Outcome.ROLLBACK),
        (400, {"candidate_status": first(400, 40, np.nan)}, Outcome.ROLLBACK),  # a copy with no answer
        (400, {"candidate_status": first(400, 40, 400)}, Outcome.ROLLBACK),  # it refuses what the baseline answers
        (400, {"candidate_status": first(400, 40, 400), "baseline_status": first(400, 40, 400)}, Outcome.PROMOTE),
        (400, {"candidate_status": first(400, 40, 500), "baseline_status": first(400, 40, 500)}, Outcome.PROMOTE),
        (400, {"gateway": {"candidate": {"timeouts": 20, "resets": 20}}}, Outcome.ROLLBACK),  # its log cannot show it
        (400, {"gateway": {"baseline": {"timeouts": 20}}}, Outcome.PROMOTE),
        (400, {"candidate_status": first(400, 4, 500)}, Outcome.INCONCLUSIVE),  # 1 % is at the bound
    ],
)
def test_mirrored(make_evidence, n, given, expected) -> None:
    assert judge(make_evidence("shadow", n, **given), POLICY, LEVELS).outcome is expected


@pytest.mark.parametrize(
    ("n", "given", "expected"),
    [
        (800, {}, Outcome.PROMOTE),
        (200, {}, Outcome.INCONCLUSIVE),
        (800, {"candidate_status": np.where(np.arange(800) % 20 == 0, 503.0, 200.0)}, Outcome.ROLLBACK),
        (800, {"fallback": np.arange(800) % 20 == 0}, Outcome.ROLLBACK),  # the user saw a good answer
        (1600, {"candidate_status": np.where(np.arange(1600) % 20 == 0, 404.0, 200.0)}, Outcome.PROMOTE),
        (800, {"baseline_status": np.where(np.arange(800) % 20 == 1, 500.0, 200.0)}, Outcome.PROMOTE),
        (800, {"gateway": {"candidate": {"connect_failures": 40}}}, Outcome.ROLLBACK),
    ],
)
def test_split(make_evidence, n, given, expected) -> None:
    assert judge(make_evidence("split", n, **given), POLICY, LEVELS).outcome is expected


def test_what_log_and_gateway_both_saw_counts_once(make_evidence) -> None:
    evidence = make_evidence("split", 800, fallback=np.arange(800) % 40 == 0, gateway={"candidate": {"resets": 20}})
    numbers = judge(evidence, POLICY, LEVELS).numbers
    assert (numbers["by_log"], numbers["by_gateway"], numbers["candidate_failed"]) == (20, 20, 20)
    assert numbers["candidate_requests"] == 400


def test_rows_of_another_stage_do_not_count(make_evidence) -> None:
    evidence = make_evidence("shadow", 400, candidate_status=first(400, 40, 500))
    split = make_evidence("split", 800)
    both = replace(split, requests=pd.concat([evidence.requests, split.requests]))
    assert judge(both, POLICY, LEVELS).numbers["candidate_failed"] == 0


@pytest.mark.parametrize("stage", ["shadow", "split"])
def test_no_requests_need_about_what_a_test_needs(make_evidence, stage) -> None:
    verdict = judge(make_evidence(stage, 0), POLICY, LEVELS)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.needs is not None
    assert 300 <= verdict.needs <= 400


@pytest.mark.parametrize("stage", ["shadow", "split"])
def test_needs_are_enough(make_evidence, stage) -> None:
    per_request = 1 if stage == "shadow" else 2
    verdict = judge(make_evidence(stage, 150 * per_request), POLICY, LEVELS)
    assert verdict.needs is not None
    more = make_evidence(stage, (150 + verdict.needs) * per_request)
    assert judge(more, POLICY, LEVELS).outcome is Outcome.PROMOTE
    fewer = make_evidence(stage, (150 + verdict.needs // 2) * per_request)
    assert judge(fewer, POLICY, LEVELS).outcome is Outcome.INCONCLUSIVE


def test_the_line_has_its_numbers(make_evidence) -> None:
    why = judge(make_evidence("shadow", 400, candidate_status=first(400, 40, 500)), POLICY, LEVELS).why
    assert why == "error rate 0.100 > 0.000 + 0.01 (40/400 failed against 0/400)"


@pytest.mark.parametrize("stage", ["shadow", "split"])
def test_no_increase_tolerated_is_never_shown_but_refuted(make_evidence, stage) -> None:
    strict = ErrorRateMetric(max_increase=0.0)
    assert judge(make_evidence(stage, 800), strict, LEVELS).outcome is Outcome.INCONCLUSIVE
    failing = make_evidence(stage, 800, candidate_status=first(800, 80, 500) if stage == "shadow" else 500.0)
    assert judge(failing, strict, LEVELS).outcome is Outcome.ROLLBACK
