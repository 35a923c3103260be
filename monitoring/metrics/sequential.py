"""Anytime-valid statistics: every number here may be looked at after each observation without costing correctness.

Each test is an e-process: its capital is at most 1 in expectation under the null hypothesis at any stopping time, so
that by Ville's inequality it ever reaches 1/alpha with probability alpha at most.

Sources: Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 86 (2024), for the
betting tests and the empirical-Bernstein sequence; Wasserman, Ramdas & Balakrishnan, "Universal inference", PNAS 117
(2020), for the infimum over a composite null; Turner, Ly & Grünwald, "Generic e-variables for exact sequential k-sample
tests", JSPI 230 (2024), for two rates; Howard & Ramdas, "Sequential estimation of quantiles", Bernoulli 28 (2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

Side = Literal["greater", "less"]
Floats = npt.NDArray[np.float64]

EFFECTS = (0.5, 1.0, 2.0, 4.0)  # multiples of the named effect that the mixture bets on
WEIGHTS = (0.15, 0.55, 0.15, 0.15)
CAUTION = 0.9  # share of the largest admissible bet, so that one bad observation never takes everything
PRIOR = (0.5, 50.0)  # Beta prior of a failure rate: around one percent, wide enough for any
QUANTILE_PRIOR = 64.0  # prior observations about a quantile: bounds are tightest for some hundreds of observations


def betting_process(
    values: npt.ArrayLike,
    *,
    null: float,
    side: Side,
    effect: float,
    low: float,
    high: float,
    second_moment: float | None = None,
) -> Floats:
    """Log capital, shape (n,), of bets that the mean is ``side`` than *null*, for values in [low, high].

    A mixture of four bets, each growth-optimal for ½, 1, 2 or 4 times the named *effect* (a distance from *null*, > 0):
    bet = effect / E[(x - null)²]. That moment is *second_moment* where given (null·(1-null) makes it exact for zeros and
    ones), else estimated from the past values only. Raises ValueError for values out of range.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.size and not (x.min() >= low - 1e-12 and x.max() <= high + 1e-12):
        raise ValueError(f"values must lie in [{low}, {high}], found {x.min()} to {x.max()}")
    gain = x - null if side == "greater" else null - x
    worst = null - low if side == "greater" else high - null
    effects = effect * np.array(EFFECTS)
    if second_moment is None:
        moments = _past_variance(x, high - low)[:, None] + effects**2
    else:
        moments = np.full((1, len(EFFECTS)), max(second_moment, 1e-9))
    bets = np.minimum(effects / moments, CAUTION / max(worst, 1e-9))
    capital = np.cumsum(np.log1p(bets * gain[:, None]), axis=0) + np.log(WEIGHTS)
    return np.asarray(np.logaddexp.reduce(capital, axis=1), dtype=np.float64)


def _past_variance(x: Floats, width: float) -> Floats:
    """Variance of the values before each one, with two observations of prior variance (width/4)²."""
    count = np.arange(x.size, dtype=np.float64)
    total = np.concatenate([[0.0], np.cumsum(x)[:-1]]) if x.size else np.zeros(0)
    squares = np.concatenate([[0.0], np.cumsum(x * x)[:-1]]) if x.size else np.zeros(0)
    spread = np.maximum(squares - total**2 / np.maximum(count, 1.0), 0.0)
    return np.asarray((2.0 * (width / 4.0) ** 2 + spread) / (count + 2.0))


def rejects(process: Floats, alpha: float) -> bool:
    """Whether the capital ever reached 1/alpha: the null is rejected at level *alpha*, whenever one looks."""
    return bool(process.size) and float(process.max()) >= math.log(1.0 / alpha)


def needs_more(process: Floats, alpha: float) -> int | None:
    """How many more observations until the null is rejected if the capital goes on growing as it has; None if it shrinks."""
    if not process.size:
        return None
    start = process.size // 4  # what a mixture costs is paid at the start
    growth = float(process[-1] - process[start]) / max(process.size - 1 - start, 1)
    if growth <= 1e-9:
        return None
    return max(1, math.ceil((math.log(1.0 / alpha) - float(process[-1])) / growth))


def mean_bounds(values: npt.ArrayLike, *, alpha: float, low: float, high: float) -> tuple[float, float]:
    """Two-sided confidence sequence at its last value for a mean in [low, high]: (lower, upper) at level 1 - alpha.

    The predictable plug-in empirical-Bernstein sequence (Waudby-Smith & Ramdas 2024, theorem 2), intersected over time.
    """
    x = (np.asarray(values, dtype=np.float64) - low) / (high - low)
    if not x.size:
        return low, high
    time = np.arange(1, x.size + 1, dtype=np.float64)
    mean = (0.5 + np.cumsum(x)) / (time + 1.0)
    before = np.concatenate([[0.5], mean[:-1]])
    variance = (0.25 + np.cumsum((x - mean) ** 2)) / (time + 1.0)
    past = np.concatenate([[0.25], variance[:-1]])
    bets = np.minimum(np.sqrt(2.0 * math.log(2.0 / alpha) / (past * time * np.log1p(time))), 0.5)
    cost = 4.0 * (x - before) ** 2 * (-np.log1p(-bets) - bets) / 4.0
    total = np.cumsum(bets)
    centre = np.cumsum(bets * x) / total
    radius = (math.log(2.0 / alpha) + np.cumsum(cost)) / total
    lower = min(max(float((centre - radius).max()), 0.0), 1.0)
    upper = min(max(float((centre + radius).min()), 0.0), 1.0)
    return low + lower * (high - low), low + upper * (high - low)


def rate_difference(
    first: tuple[int, int],
    second: tuple[int, int],
    *,
    margin: float,
    side: Side,
    alternatives: Sequence[tuple[float, float, float]] = (),
) -> float:
    """Log e-value against "p1 - p2 ≤ margin" (greater) or "p1 - p2 ≥ margin" (less), for two independent arms.

    Each arm is (events, trials). The e-process is the likelihood of a mixture of *alternatives* (weight, p1, p2; without
    any a Beta prior on each arm) over the largest likelihood under the null (universal inference). It depends on counts
    alone, however the arms' observations interleave. Not for paired observations, which are not independent: bet on
    their differences.
    """
    rate = first[0] / first[1] if first[1] else None

    def refuted(q: float) -> float:
        edge = min(max(q + margin, 0.0), 1.0)
        if rate is not None:
            edge = min(edge, rate) if side == "greater" else max(edge, rate)
        return -_likelihood(first, edge) - _likelihood(second, q)

    low, high = (max(0.0, -margin), 1.0) if side == "greater" else (0.0, min(1.0, 1.0 - margin))
    return _mixture(first, second, alternatives) + _least(refuted, low, high)


def failing_alternatives(margin: float) -> list[tuple[float, float, float]]:
    """What a candidate that fails more than *margin* above its baseline may look like: (weight, candidate, baseline)."""
    named = max(margin, 0.01)
    baselines, effects = (
        ((0.6, 0.0), (0.2, 0.005), (0.1, 0.02), (0.1, 0.08)),
        ((0.25, 1), (0.3, 2), (0.25, 4), (0.12, 12), (0.08, 40)),
    )
    return [(v * w, min(base + margin + times * named, 0.99), base) for v, base in baselines for w, times in effects]


def sound_alternatives(margin: float) -> list[tuple[float, float, float]]:
    """What a candidate that fails no more than its baseline may look like: (weight, candidate, baseline)."""
    equal = [(0.03, rate, rate) for rate in (0.001, 0.005, 0.02, 0.05, 0.1, 0.25)]
    better = [(0.04, margin / 10.0, rate) for rate in (0.02, 0.1, 0.3)]
    return [(0.6, margin / 10.0, 0.0), (0.1, margin / 3.0, 0.0), *equal, *better]


def _mixture(
    first: tuple[int, int], second: tuple[int, int], alternatives: Sequence[tuple[float, float, float]]
) -> float:
    """Log likelihood of both arms under the weighted alternatives, or under a Beta prior on each."""
    if not alternatives:
        a, b = PRIOR
        return sum(_log_beta(a + k, b + n - k) - _log_beta(a, b) for k, n in (first, second))
    terms = [math.log(w) + _likelihood(first, p1) + _likelihood(second, p2) for w, p1, p2 in alternatives]
    most = max(terms)
    return most + math.log(sum(math.exp(term - most) for term in terms))


def _likelihood(arm: tuple[int, int], rate: float) -> float:
    """Log likelihood of (events, trials) at *rate*."""
    rate = min(max(rate, 1e-6), 1.0 - 1e-6)
    return arm[0] * math.log(rate) + (arm[1] - arm[0]) * math.log1p(-rate)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _least(convex: Callable[[float], float], low: float, high: float) -> float:
    """The least value of a convex function on [low, high], by ternary search."""
    for _ in range(80):
        left, right = low + (high - low) / 3.0, high - (high - low) / 3.0
        if convex(left) <= convex(right):
            high = right
        else:
            low = left
    return convex((low + high) / 2.0)


def rate_difference_bounds(first: tuple[int, int], second: tuple[int, int], *, alpha: float) -> tuple[float, float]:
    """Confidence sequence (lower, upper) for p1 - p2 at its present value, each side at level 1 - alpha."""
    threshold = math.log(1.0 / alpha)

    def edge(side: Side) -> float:
        inside, outside = (1.0, -1.0) if side == "greater" else (-1.0, 1.0)
        if rate_difference(first, second, margin=outside, side=side) < threshold:
            return outside
        for _ in range(24):
            middle = (inside + outside) / 2.0
            if rate_difference(first, second, margin=middle, side=side) >= threshold:
                outside = middle
            else:
                inside = middle
        return outside

    return edge("greater"), edge("less")


def rate_evidence(events: npt.ArrayLike, trials: int, *, rate: float, side: Side, prior: float) -> Floats:
    """Log e-value against "p ≤ rate" (greater) or "p ≥ rate" (less) for each possible count in *events*.

    A mixture of likelihood ratios over rates on one side, half-normal with the standard deviation that *prior*
    observations would have.
    """
    k = np.atleast_1d(np.asarray(events, dtype=np.float64))
    steps = np.array([0.05, 0.15, 0.3, 0.45, 0.6, 0.75, 0.95, 1.15, 1.35, 1.6, 1.9, 2.3, 2.8])
    shift = steps * math.sqrt(rate * (1.0 - rate) / prior)
    others = np.clip(rate + shift if side == "greater" else rate - shift, 1e-9, 1.0 - 1e-9)
    ratios = k[:, None] * np.log(others / rate) + (trials - k[:, None]) * np.log((1.0 - others) / (1.0 - rate))
    return np.asarray(np.logaddexp.reduce(ratios, axis=1) - math.log(len(steps)))


def quantile_bounds(values: npt.ArrayLike, *, quantile: float, alpha: float) -> tuple[float, float]:
    """Confidence sequence (lower, upper) for a quantile at its present value, each side at level 1 - alpha.

    Order statistics whose ranks an anytime-valid binomial test does not refute (Howard & Ramdas 2022). Values may be
    +inf (never answered); a side that the sample cannot bound yet is -inf or +inf.
    """
    x = np.sort(np.asarray(values, dtype=np.float64))
    ranks, threshold = np.arange(x.size + 1), math.log(1.0 / alpha)
    above = rate_evidence(ranks, x.size, rate=quantile, side="greater", prior=QUANTILE_PRIOR) >= threshold
    below = rate_evidence(ranks, x.size, rate=quantile, side="less", prior=QUANTILE_PRIOR) >= threshold
    upper = float(x[int(np.argmax(above)) - 1]) if above.any() else math.inf
    lower = float(x[int(np.flatnonzero(below)[-1])]) if below.any() else -math.inf
    return lower, upper
