"""Error rate: what the candidate failed, by assignment, against what the baseline failed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bentos.policy.metrics import ErrorRateMetric
from monitoring.interface import MetricVerdict, Outcome
from monitoring.metrics.interface import Levels
from monitoring.metrics.sequential import (
    betting_process,
    failing_alternatives,
    needs_more,
    rate_difference,
    rate_difference_bounds,
    sound_alternatives,
)

if TYPE_CHECKING:
    import pandas as pd

    from monitoring.evidence.evidence import Evidence

METRIC = "error_rate"
UNSEEN = ("timeouts", "resets", "connect_failures", "no_healthy")  # what a server's own log cannot show


def judge(evidence: Evidence, policy: ErrorRateMetric, levels: Levels) -> MetricVerdict:
    """PROMOTE when the increase is shown to be below ``max_increase``, ROLLBACK when shown to be above it.

    Failed is a status of 500 and above, 429 (a full queue), and no answer. Any other 4xx is the client's and counts for
    neither arm, except for a mirrored copy of a request that the baseline answered: then it is the candidate that refused
    it.
    """
    if evidence.stage == "shadow":
        return _judge_pairs(evidence, policy, levels)
    return _judge_arms(evidence, policy, levels)


def _judge_pairs(evidence: Evidence, policy: ErrorRateMetric, levels: Levels) -> MetricVerdict:
    """Mirrored copies are paired with the baseline's answers: bets on the difference of each pair.

    Requests that the gateway gave up on have no record of the candidate's, so they are added as failures of its own.
    The process uses fixed bets: its capital depends on counts alone, not on their order.
    """
    rows = evidence.requests
    rows = rows[(rows["stage"] == "shadow") & rows["mirrored"].astype(bool)]
    baseline, candidate = _status(rows["baseline_status"]), _status(rows["candidate_status"])
    counted = ~_client(baseline)
    baseline_failed = _failed(baseline)
    candidate_failed = (candidate >= 400) | ~np.isfinite(candidate)
    unseen = _unseen(evidence, "candidate")
    difference = candidate_failed[counted].astype(float) - baseline_failed[counted].astype(float)
    difference = np.concatenate([difference, np.ones(unseen)])
    margin = policy.max_increase

    named = max(margin, 0.01)
    better = betting_process(
        difference, null=margin, side="less", effect=named, low=-1.0, high=1.0, second_moment=named * (1.0 - named)
    )
    worse = betting_process(
        difference,
        null=margin,
        side="greater",
        effect=2 * named,
        low=-1.0,
        high=1.0,
        second_moment=named * (1.0 - named),
    )
    n = difference.size
    failed = (int(candidate_failed[counted].sum()) + unseen, int(baseline_failed[counted].sum()))
    enough = n > 0 and better[-1] >= math.log(1.0 / levels.promote)
    too_many = n > 0 and worse[-1] >= math.log(1.0 / levels.rollback)
    needs = needs_more(better, levels.promote) if n else _at_least(margin, levels)
    numbers: dict[str, float | int | str] = {"unseen_by_log": unseen, "paired": "yes"}
    return _verdict((failed[0], n), (failed[1], n), margin, enough, too_many, needs, numbers)


def _judge_arms(evidence: Evidence, policy: ErrorRateMetric, levels: Levels) -> MetricVerdict:
    """Two independent arms of live requests; what the baseline answered in the candidate's place is the candidate's failure.

    A request that the gateway gave up on shows as a fallback in the baseline's log and as a reset or timeout in the
    gateway's counters: the larger of the two views counts, never their sum.
    """
    rows = evidence.requests
    rows = rows[rows["stage"] == evidence.stage]
    to_candidate = np.asarray(rows["assigned"] == "candidate")
    fallback = np.asarray(rows["fallback"].astype(bool))
    baseline, candidate = _status(rows["baseline_status"]), _status(rows["candidate_status"])
    # What both refuse is the client's fault.
    by_log = to_candidate & ((fallback & ~_client(baseline)) | _failed(candidate))
    trials = int((to_candidate & (by_log | ~_client(candidate))).sum())
    by_gateway = int((to_candidate & _failed(candidate)).sum()) + _unseen(evidence, "candidate")
    first = (min(max(int(by_log.sum()), by_gateway), max(trials, by_gateway)), max(trials, by_gateway))

    to_baseline = ~to_candidate & ~_client(baseline)
    second = (int((to_baseline & _failed(baseline)).sum()), int(to_baseline.sum()))
    margin = policy.max_increase
    sound, failing = sound_alternatives(margin), failing_alternatives(margin)
    threshold = math.log(1.0 / levels.promote)

    def better(scale: float) -> float:
        scaled = [(round(events * scale), round(count * scale)) for events, count in (first, second)]
        return rate_difference(scaled[0], scaled[1], margin=margin, side="less", alternatives=sound)

    worse = rate_difference(first, second, margin=margin, side="greater", alternatives=failing)
    scales = [1.15**step for step in range(45)]
    scale = next((scale for scale in scales if better(scale) >= threshold), None) if first[1] else None
    needs = (
        _at_least(margin, levels) if not first[1] else None if scale is None else math.ceil(first[1] * (scale - 1.0))
    )
    lower, upper = rate_difference_bounds(first, second, alpha=levels.promote)
    return _verdict(
        first,
        second,
        margin,
        first[1] > 0 and better(1.0) >= threshold,
        worse >= math.log(1.0 / levels.rollback),
        needs,
        {"by_log": int(by_log.sum()), "by_gateway": by_gateway, "increase_lower": lower, "increase_upper": upper},
    )


def _verdict(
    candidate: tuple[int, int],
    baseline: tuple[int, int],
    margin: float,
    enough: bool,
    too_many: bool,
    needs: int | None,
    extra: Mapping[str, float | int | str],
) -> MetricVerdict:
    rates = [failed / n if n else 0.0 for failed, n in (candidate, baseline)]
    counts = f"{candidate[0]}/{candidate[1]} failed against {baseline[0]}/{baseline[1]}"
    bound = f"{rates[1]:.3f} + {margin:g}"
    if too_many:
        outcome, why = Outcome.ROLLBACK, f"error rate {rates[0]:.3f} > {bound} ({counts})"
    elif enough:
        outcome, why = Outcome.PROMOTE, f"error rate {rates[0]:.3f} <= {bound} ({counts})"
    else:
        more = (
            f"about {needs} more requests to the candidate needed" if needs else "more of the same would not decide it"
        )
        outcome, why = Outcome.INCONCLUSIVE, f"error rate {rates[0]:.3f} against {bound} undecided ({counts}); {more}"
    numbers: dict[str, float | int | str | None] = {
        "candidate_failed": candidate[0],
        "candidate_requests": candidate[1],
        "baseline_failed": baseline[0],
        "baseline_requests": baseline[1],
        "candidate_rate": rates[0],
        "baseline_rate": rates[1],
        "max_increase": margin,
        **extra,
    }
    return MetricVerdict(METRIC, outcome, why, numbers, needs if outcome is Outcome.INCONCLUSIVE else None)


def _status(column: pd.Series[Any]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    import pandas as pd

    return np.asarray(pd.to_numeric(column), dtype=np.float64)


def _client(status: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.asarray((status >= 400) & (status < 500) & (status != 429))


def _failed(status: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.asarray((status >= 500) | (status == 429))


def _unseen(evidence: Evidence, arm: str) -> int:
    counters = evidence.gateway.get(arm, {})
    return sum(int(counters.get(name, 0)) for name in UNSEEN)


def _at_least(margin: float, levels: Levels) -> int | None:
    """Requests without a failure that show a rate below *margin*."""
    return math.ceil((math.log(1.0 / levels.promote) + 0.7) / margin) if margin > 0 else None
