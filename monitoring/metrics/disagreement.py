"""Disagreement: how often (classes) or how much (numbers) the joined answers of both arms differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bentos.policy.metrics import DisagreementMetric
from monitoring.evidence.values import as_classes, by_output, joined, kind_of, mean_by_request, without_pairs
from monitoring.interface import SEVERITY, MetricVerdict, Outcome
from monitoring.metrics.interface import Levels, Silent
from monitoring.metrics.sequential import betting_process, mean_bounds, needs_more, rejects

if TYPE_CHECKING:
    import pandas as pd

    from monitoring.evidence.evidence import Evidence

METRIC = "disagreement"
CLIP = 5.0  # numeric differences are clipped at this many standard deviations of the baseline, so that they are bounded


def judge(evidence: Evidence, policy: DisagreementMetric, levels: Levels) -> MetricVerdict | Silent:
    """Classes: the share of joined answers with another class against ``max_rate``, by betting. Numbers: the mean
    difference in standard deviations of the baseline against ``max_mean_difference``, by an empirical-Bernstein sequence,
    of each output where there are several: the worst decides.

    The request is the unit: a request of many rows counts once, with its mean. Silent where answers cannot be joined
    (a split without a mirror) and for numbers without a bound.
    """
    if without_pairs(evidence):
        return Silent(METRIC, "no joined answers: in a split each request is answered by one arm")
    pairs = joined(evidence)
    if pairs.empty:
        return MetricVerdict(METRIC, Outcome.INCONCLUSIVE, "no joined answers yet", {"requests": 0})
    if kind_of(pairs["baseline"], pairs["candidate"]) == "class":
        return _classes(pairs, policy.max_rate, levels)
    return _numbers(pairs, policy.max_mean_difference, levels)


def _classes(pairs: pd.DataFrame, most: float, levels: Levels) -> MetricVerdict | Silent:
    differs = as_classes(pairs["baseline"]) != as_classes(pairs["candidate"])
    share = mean_by_request(pairs, differs.astype(np.float64), "seq")
    rate = float(share.mean())
    found: dict[str, float | int | str | None] = {
        "rate": rate,
        "max_rate": most,
        "requests": share.size,
        "kind": "class",
    }
    if most >= 1.0:
        return Silent(METRIC, f"{rate:.3f} of {share.size} joined answers differ; max_rate 1 tolerates any", found)
    if most <= 0.0:
        return _none_allowed(rate, share.size, found)
    effect, moment = most / 2, most * (1 - most)
    fewer = betting_process(share, null=most, side="less", effect=effect, low=0, high=1, second_moment=moment)
    more = betting_process(share, null=most, side="greater", effect=effect, low=0, high=1, second_moment=moment)
    if rejects(more, levels.rollback):
        why = f"disagreement {rate:.3f} > {most:g} (n={share.size})"
        return MetricVerdict(METRIC, Outcome.ROLLBACK, why, found)
    if rejects(fewer, levels.promote):
        why = f"disagreement {rate:.3f} <= {most:g} (n={share.size})"
        return MetricVerdict(METRIC, Outcome.PROMOTE, why, found)
    needs = needs_more(fewer, levels.promote)
    said = f"about {needs} more joined answers needed" if needs else "more of the same would not decide it"
    why = f"disagreement {rate:.3f} against {most:g} undecided (n={share.size}); {said}"
    return MetricVerdict(METRIC, Outcome.INCONCLUSIVE, why, found, needs)


def _none_allowed(rate: float, n: int, found: dict[str, float | int | str | None]) -> MetricVerdict:
    if rate > 0:
        return MetricVerdict(METRIC, Outcome.ROLLBACK, f"disagreement {rate:.3f} > 0 (n={n})", found)
    why = f"no disagreement in {n}, but no finite sample shows a rate of exactly 0; set disagreement.max_rate above 0"
    return MetricVerdict(METRIC, Outcome.INCONCLUSIVE, why, found)


def _numbers(pairs: pd.DataFrame, most: float | None, levels: Levels) -> MetricVerdict | Silent:
    """The worst of the outputs. All must agree to promote; any may roll back, so each has its share of that level."""
    outputs = by_output(pairs["baseline"], pairs["candidate"])
    shared = Levels(levels.promote, levels.rollback / len(outputs))
    found = [_output(name, pairs, arms, most, shared) for name, arms in outputs.items()]
    judged = [one for one in found if isinstance(one, MetricVerdict)]
    if judged:
        return max(judged, key=lambda one: (SEVERITY.index(one.outcome), _apart(one)))
    return max(found, key=_apart)


def _apart(found: MetricVerdict | Silent) -> float:
    return abs(float(found.numbers["mean_difference"] or 0.0))


def _output(
    name: str,
    pairs: pd.DataFrame,
    arms: tuple[npt.NDArray[np.float64], ...],
    most: float | None,
    levels: Levels,
) -> MetricVerdict | Silent:
    """One output's numbers, the baseline's and the candidate's; *name* tells it from others and is empty for one alone."""
    baseline, candidate = arms
    spread = float(np.nanstd(baseline))
    what = f"mean difference of {name}" if name else "mean difference"
    difference = mean_by_request(pairs, _scaled(candidate - baseline, spread), "seq")
    mean = float(difference.mean())
    found: dict[str, float | int | str | None] = {
        "mean_difference": mean,
        "baseline_sd": spread,
        "median_absolute_difference": float(np.nanmedian(np.abs(candidate - baseline))),
        "requests": difference.size,
        "max_mean_difference": most,
        "kind": "number",
    }
    if name:
        found["output"] = name
    if most is None:
        return Silent(METRIC, f"{what} {mean:+.3f} sd of the baseline (n={difference.size}); reported only", found)
    low, high = mean_bounds(difference, alpha=levels.promote, low=-CLIP, high=CLIP)
    surely = mean_bounds(difference, alpha=levels.rollback, low=-CLIP, high=CLIP)
    found |= {"lower": low, "upper": high}
    if surely[0] > most or surely[1] < -most:
        why = f"{what} {mean:+.3f} sd beyond {most:g} sd (n={difference.size})"
        return MetricVerdict(METRIC, Outcome.ROLLBACK, why, found)
    if -most <= low and high <= most:
        why = f"{what} {mean:+.3f} sd within {most:g} sd (n={difference.size})"
        return MetricVerdict(METRIC, Outcome.PROMOTE, why, found)
    needs = _needs(mean, (high - low) / 2, most, difference.size)
    said = f"about {needs} more joined answers needed" if needs else "more of the same would not decide it"
    why = f"{what} {low:+.3f} to {high:+.3f} sd against {most:g} sd undecided (n={difference.size}); {said}"
    return MetricVerdict(METRIC, Outcome.INCONCLUSIVE, why, found, needs)


def _scaled(difference: npt.NDArray[np.float64], spread: float) -> npt.NDArray[np.float64]:
    """Differences in standard deviations, clipped; a constant baseline makes any difference the largest."""
    if spread > 0:
        return np.clip(np.nan_to_num(difference / spread, nan=CLIP), -CLIP, CLIP)
    return np.where(difference == 0, 0.0, np.sign(np.nan_to_num(difference, nan=1.0)) * CLIP)


def _needs(mean: float, radius: float, most: float, n: int) -> int | None:
    """The radius shrinks between 1/sqrt(n) and 1/n; the slower is told."""
    room = most - abs(mean)
    return max(1, round(n * ((radius / room) ** 2 - 1))) if room > 0 else None
