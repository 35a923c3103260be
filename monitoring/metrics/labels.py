"""Labels: the loss of both arms on the same labelled requests, in pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bentos.policy.metrics import LabelMetric
from monitoring.evidence.values import as_classes, by_output, joined, kind_of, mean_by_request, several, without_pairs
from monitoring.interface import MetricVerdict, Outcome
from monitoring.metrics.interface import Levels, Silent
from monitoring.metrics.sequential import betting_process, mean_bounds, needs_more, rejects

if TYPE_CHECKING:
    import pandas as pd

    from monitoring.evidence.evidence import Evidence

METRIC = "labels"
NOT_ALIKE = (
    "labels and answers differ in their form: one has several outputs a row. Name the labelled one in metrics.output, or"
    " label each output"
)


def judge(evidence: Evidence, policy: LabelMetric, levels: Levels) -> MetricVerdict | Silent:
    """Bets on d = loss(baseline) - loss(candidate) in [-1, 1] of each labelled pair, in the order in which labels came.

    ROLLBACK when "mean d >= 0" is rejected (the candidate loses more), PROMOTE when "mean d <= -margin" is (it does not
    lose more by the margin). Between the two either may come first; both at once is ROLLBACK. Fewer than ``min_pairs``,
    or nothing decided: INCONCLUSIVE where labels are required, else silent; but pairs that so far lose more than the margin
    are never passed over in silence: INCONCLUSIVE until they decide. A split without a mirror has no pairs at all and
    is silent: what the policy requires of labels is decided in the shadow.
    """
    if without_pairs(evidence):
        return Silent(METRIC, "no labelled pairs: in a split each request is answered by one arm")
    pairs = joined(evidence).dropna(subset=["label"])
    difference = paired(pairs, policy) if not pairs.empty else np.zeros(0)
    n = difference.size
    if n and several(pairs["baseline"], pairs["candidate"]) != several(pairs["label"]):
        return _undecided(policy, NOT_ALIKE, {"pairs": 0, "margin": policy.margin}, None)
    found: dict[str, float | int | str | None] = {"pairs": n, "margin": policy.margin}
    if n < policy.min_pairs:
        return _undecided(policy, f"{n} labelled pairs, {policy.min_pairs} needed", found, policy.min_pairs - n)
    mean = float(difference.mean())
    low, high = mean_bounds(difference, alpha=levels.promote, low=-1.0, high=1.0)
    found |= {"gain": mean, "gain_lower": low, "gain_upper": high, "differing": int(np.count_nonzero(difference))}
    worse = betting_process(difference, null=0.0, side="less", effect=2 * policy.margin, low=-1.0, high=1.0)
    sound = betting_process(difference, null=-policy.margin, side="greater", effect=policy.margin, low=-1.0, high=1.0)
    if rejects(worse, levels.rollback):
        why = f"loss on labels higher by {-mean:.4f} > 0 (n={n} pairs)"
        return MetricVerdict(METRIC, Outcome.ROLLBACK, why, found)
    if rejects(sound, levels.promote):
        why = f"loss on labels differs by {-mean:+.4f} < margin {policy.margin:g} (n={n} pairs)"
        return MetricVerdict(METRIC, Outcome.PROMOTE, why, found)
    why = f"loss on labels differs by {-mean:+.4f}, margin {policy.margin:g}, n={n} pairs"
    if mean < -policy.margin:
        return _held(why, found, needs_more(worse, levels.rollback))
    return _undecided(policy, why, found, needs_more(sound, levels.promote))


def paired(pairs: pd.DataFrame, policy: LabelMetric) -> npt.NDArray[np.float64]:
    """loss(baseline) - loss(candidate) per labelled request, shape (n,), in label order; numeric losses are the mean of all
    outputs'."""
    loss = policy.loss
    if loss == "auto":
        loss = "zero_one" if kind_of(pairs["baseline"], pairs["candidate"]) == "class" else "absolute"
    if loss == "zero_one":
        truth = as_classes(pairs["label"])
        losses = [(as_classes(pairs[arm]) != truth).astype(np.float64) for arm in ("baseline", "candidate")]
    else:
        power = 1 if loss == "absolute" else 2
        outputs = by_output(pairs["baseline"], pairs["candidate"], pairs["label"]).values()
        of_outputs = [[_numeric(arm - label, power, policy.scale) for arm in arms] for *arms, label in outputs]
        losses = list(np.mean(of_outputs, axis=0))
    return mean_by_request(pairs, losses[0] - losses[1], "label_seq")


def _numeric(error: npt.NDArray[np.float64], power: int, scale: float) -> npt.NDArray[np.float64]:
    """|error|^power / scale, clipped to [0, 1]; an error that is not a number is the largest."""
    return np.clip(np.nan_to_num(np.abs(error) ** power / scale, nan=1.0, posinf=1.0), 0.0, 1.0)


def _held(why: str, found: dict[str, float | int | str | None], needs: int | None) -> MetricVerdict:
    """Undecided, with pairs that speak against the candidate."""
    said = f"about {needs} more pairs needed" if needs else "more of the same would not decide it"
    return MetricVerdict(METRIC, Outcome.INCONCLUSIVE, f"{why}: worse so far and undecided; {said}", found, needs)


def _undecided(
    policy: LabelMetric, why: str, found: dict[str, float | int | str | None], needs: int | None
) -> MetricVerdict | Silent:
    if not policy.required:
        return Silent(METRIC, f"{why}; not required", found)
    said = f"about {needs} more needed" if needs else "more of the same would not decide it"
    return MetricVerdict(METRIC, Outcome.INCONCLUSIVE, f"{why}; {said}", found, needs)
