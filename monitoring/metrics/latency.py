"""Latency: a quantile of the candidate against the baseline's, by anytime-valid quantile bounds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bentos.policy.metrics import LatencyMetric
from monitoring.evidence.values import numbers
from monitoring.interface import MetricVerdict, Outcome
from monitoring.metrics.interface import Levels
from monitoring.metrics.sequential import quantile_bounds

if TYPE_CHECKING:
    from monitoring.evidence.evidence import Evidence

METRIC = "latency"


def judge(evidence: Evidence, policy: LatencyMetric, levels: Levels) -> MetricVerdict:
    """ROLLBACK when the candidate's lower bound is above the baseline's upper x max_ratio + slack; PROMOTE when its
    upper bound is at most the baseline's lower x max_ratio + slack.

    Half of each level is spent on each arm's bound, so the arms may be dependent (mirrored copies are). Both are
    milliseconds as the servers measured them. What the candidate failed or answered too late counts as infinitely slow.
    """
    candidate, baseline = samples(evidence)
    low_c, high_c = quantile_bounds(candidate, quantile=policy.quantile, alpha=levels.promote / 2)
    low_b, high_b = quantile_bounds(baseline, quantile=policy.quantile, alpha=levels.promote / 2)
    surely_c = quantile_bounds(candidate, quantile=policy.quantile, alpha=levels.rollback / 2)[0]
    surely_b = quantile_bounds(baseline, quantile=policy.quantile, alpha=levels.rollback / 2)[1]

    allowed = max(low_b, 0.0) * policy.max_ratio + policy.slack_ms
    forbidden = surely_b * policy.max_ratio + policy.slack_ms
    name = f"p{policy.quantile * 100:g}"
    counts = f"n={candidate.size} and {baseline.size}"
    needs = None
    if surely_c > forbidden:
        outcome = Outcome.ROLLBACK
        why = f"latency {name} at least {surely_c:.1f} ms > {surely_b:.1f} ms x {policy.max_ratio:g} + {policy.slack_ms:g} ms ({counts})"
    elif math.isfinite(high_c) and math.isfinite(low_b) and high_c <= allowed:
        outcome = Outcome.PROMOTE
        why = f"latency {name} at most {high_c:.1f} ms <= {low_b:.1f} ms x {policy.max_ratio:g} + {policy.slack_ms:g} ms ({counts})"
    else:
        outcome, needs = Outcome.INCONCLUSIVE, _needs(min(candidate.size, baseline.size), policy.quantile, levels)
        why = f"latency {name} undecided: {low_c:.1f} to {high_c:.1f} ms against {low_b:.1f} to {high_b:.1f} ms ({counts}); about {needs} more requests needed"
    found = {
        "quantile": policy.quantile,
        "candidate_ms": _quantile(candidate, policy.quantile),
        "candidate_lower_ms": _finite(low_c),
        "candidate_upper_ms": _finite(high_c),
        "baseline_ms": _quantile(baseline, policy.quantile),
        "baseline_lower_ms": _finite(low_b),
        "baseline_upper_ms": _finite(high_b),
        "candidate_requests": int(candidate.size),
        "baseline_requests": int(baseline.size),
    }
    return MetricVerdict(METRIC, outcome, why, found, needs)


def samples(evidence: Evidence) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Milliseconds of (candidate, baseline) in the evidence's own stage; +inf where the arm did not answer.

    Mirrored: both answers of each pair. Split: each arm's own live requests, by assignment.
    """
    rows = evidence.requests
    rows = rows[rows["stage"] == evidence.stage]
    if evidence.stage == "shadow":
        first = second = rows[rows["mirrored"].astype(bool)]
    else:
        first, second = rows[rows["assigned"] == "candidate"], rows[rows["assigned"] == "baseline"]
    candidate = _answered(numbers(first["candidate_ms"]), numbers(first["candidate_status"]))
    candidate[np.asarray(first["fallback"].astype(bool))] = math.inf
    return candidate, _answered(numbers(second["baseline_ms"]), numbers(second["baseline_status"]))


def _answered(ms: npt.NDArray[np.float64], status: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(np.isfinite(ms) & np.isfinite(status) & (status < 500) & (status != 429), ms, math.inf)


def _quantile(values: npt.NDArray[np.float64], quantile: float) -> float | None:
    if not values.size:
        return None
    return _finite(float(np.sort(values)[min(int(quantile * values.size), values.size - 1)]))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _needs(n: int, quantile: float, levels: Levels) -> int:
    """Half as many again, and never fewer than a bound on the quantile needs at all."""
    least = math.ceil((math.log(2.0 / levels.promote) + 1.5) / -math.log(quantile)) if quantile < 1 else 0
    return max(least - n, n // 2, 1)
