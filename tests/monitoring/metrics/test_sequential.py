"""Levels hold with a look after every observation, and named effects are found in the samples that were promised."""

import math
import time

import numpy as np
import pytest

from monitoring.metrics.sequential import (
    betting_process,
    failing_alternatives,
    mean_bounds,
    needs_more,
    quantile_bounds,
    rate_difference,
    rate_difference_bounds,
    rate_evidence,
    rejects,
    sound_alternatives,
)

ALPHA = 0.05
RUNS = 300
# With 300 runs at a true error of 5 % more than 8.5 % are seen once in 200 times; the tests are conservative besides.
TOLERATED = 0.085


def differences(rng: np.random.Generator, n: int, disagreement: float, mean: float) -> np.ndarray:
    """Paired losses: +1 and -1 with probabilities that sum to *disagreement* and differ by *mean*."""
    up, down = (disagreement + mean) / 2, (disagreement - mean) / 2
    return rng.choice([1.0, -1.0, 0.0], p=[up, down, 1 - up - down], size=n)


@pytest.mark.parametrize("side", ["greater", "less"])
@pytest.mark.parametrize("disagreement", [0.04, 0.3])
def test_betting_keeps_its_level_at_every_look(side: str, disagreement: float) -> None:
    rng = np.random.default_rng(7)
    wrong = 0
    for _ in range(RUNS):
        x = differences(rng, 1500, disagreement, 0.0)
        wrong += rejects(betting_process(x, null=0.0, side=side, effect=0.02, low=-1, high=1), ALPHA)
    assert wrong / RUNS <= TOLERATED


def test_betting_on_zeros_and_ones_keeps_its_level() -> None:
    rng = np.random.default_rng(8)
    wrong = 0
    for _ in range(RUNS):
        x = (rng.random(1500) < 0.2).astype(float)
        process = betting_process(x, null=0.2, side="greater", effect=0.1, low=0, high=1, second_moment=0.16)
        wrong += rejects(process, ALPHA)
    assert wrong / RUNS <= TOLERATED


def test_a_naive_test_repeated_would_not_keep_its_level() -> None:
    """The simulation can fail: a z-test at each of the same looks errs several times as often."""
    rng = np.random.default_rng(7)
    wrong = 0
    for _ in range(RUNS):
        x = differences(rng, 1500, 0.3, 0.0)
        n = np.arange(1, x.size + 1)
        z = np.cumsum(x) / np.sqrt(np.maximum(np.cumsum(x * x), 1e-9))
        wrong += bool((z[n > 30] > 1.645).any())
    assert wrong / RUNS > 2 * TOLERATED


def test_betting_finds_a_named_effect_in_about_the_sample_of_a_fixed_test() -> None:
    rng = np.random.default_rng(9)
    fixed = (1.645 + 0.842) ** 2 * 0.08 / 0.02**2  # samples of a one-sided z-test of 80 % power
    found = []
    for _ in range(100):
        process = betting_process(
            differences(rng, 6000, 0.08, 0.02), null=0, side="greater", effect=0.02, low=-1, high=1
        )
        assert rejects(process, ALPHA)
        found.append(int(np.argmax(process >= math.log(1 / ALPHA))))
    assert np.median(found) < 1.3 * fixed


def test_betting_decides_without_a_failure_when_the_policy_says_so() -> None:
    process = betting_process(np.zeros(400), null=0.01, side="less", effect=0.01, low=-1, high=1, second_moment=0.0099)
    first = int(np.argmax(process >= math.log(1 / ALPHA))) + 1
    assert 299 <= first <= 360  # log(20) / -log(0.99) = 299 is the least that any test can do


def test_bets_use_the_past_only() -> None:
    x = differences(np.random.default_rng(1), 200, 0.3, 0.1)
    changed = x.copy()
    changed[150:] *= -1
    options = {"null": 0.0, "side": "greater", "effect": 0.05, "low": -1.0, "high": 1.0}
    before, after = betting_process(x, **options), betting_process(changed, **options)
    assert np.array_equal(before[:150], after[:150])
    assert not np.array_equal(before[150:], after[150:])


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], found 0.0 to 2.0"):
        betting_process([0.0, 2.0], null=0.5, side="greater", effect=0.1, low=0, high=1)


def test_needs_more_is_about_what_is_needed() -> None:
    x = np.tile([1.0, 0.0, 0.0, 0.0], 400)
    options = {"null": 0.17, "side": "greater", "effect": 0.08, "low": 0.0, "high": 1.0}
    process = betting_process(x, **options)
    first = int(np.argmax(process >= math.log(1 / ALPHA))) + 1
    needs = needs_more(process[: first // 2], ALPHA)
    assert needs is not None
    assert 0.5 * first / 2 <= needs <= 2 * first / 2
    assert needs_more(betting_process(np.zeros(50), **options), ALPHA) is None
    assert needs_more(np.zeros(0), ALPHA) is None


def test_mean_bounds_cover_the_mean_at_every_look() -> None:
    rng = np.random.default_rng(3)
    missed, width = 0, 0.0
    for _ in range(RUNS):
        x = rng.beta(2, 6, size=1000)
        low, high = mean_bounds(x, alpha=ALPHA, low=0, high=1)  # the intersection over all looks
        missed += not low <= 0.25 <= high
        width = high - low
    assert missed / RUNS <= TOLERATED
    assert width < 0.08
    assert mean_bounds([], alpha=ALPHA, low=-1, high=1) == (-1, 1)


@pytest.mark.parametrize(("rate", "margin", "side"), [(0.03, 0.02, "greater"), (0.01, 0.0, "less")])
def test_rate_difference_keeps_its_level(rate: float, margin: float, side: str) -> None:
    rng = np.random.default_rng(11)
    alternatives = failing_alternatives(margin) if side == "greater" else sound_alternatives(max(margin, 0.01))
    looks = np.unique(np.geomspace(20, 1500, 25).astype(int))
    wrong = 0
    for _ in range(150):
        first = np.cumsum(rng.random(1500) < rate + margin)
        second = np.cumsum(rng.random(1500) < rate)
        wrong += any(
            rate_difference((int(first[n - 1]), n), (int(second[n - 1]), n), margin=margin, side=side, alternatives=a)
            >= math.log(1 / ALPHA)
            for n in map(int, looks)
            for a in [alternatives]
        )
    assert wrong / 150 <= TOLERATED


def test_rate_difference_finds_five_percent_of_failures() -> None:
    rng = np.random.default_rng(12)
    found = []
    for _ in range(60):
        failed = np.cumsum(rng.random(900) < 0.05)
        looks = (n for n in range(20, 900, 10) if _failing(int(failed[n - 1]), n) >= math.log(1 / 0.01))
        found.append(next(looks, 900))
    assert np.median(found) <= 320


def _failing(failed: int, n: int) -> float:
    return rate_difference((failed, n), (0, n), margin=0.01, side="greater", alternatives=failing_alternatives(0.01))


def test_rate_difference_bounds_hold_the_difference_and_shrink() -> None:
    wide = rate_difference_bounds((5, 100), (2, 100), alpha=ALPHA)
    narrow = rate_difference_bounds((500, 10000), (200, 10000), alpha=ALPHA)
    assert wide[0] < narrow[0] < 0.03 < narrow[1] < wide[1]
    assert rate_difference_bounds((0, 0), (0, 0), alpha=ALPHA) == (-1.0, 1.0)


@pytest.mark.parametrize("first", [(0, 400), (40, 400), (400, 400), (0, 0)])
@pytest.mark.parametrize("second", [(0, 400), (40, 400), (390, 400)])
def test_rate_difference_bounds_are_around_what_was_found(first: tuple[int, int], second: tuple[int, int]) -> None:
    low, high = rate_difference_bounds(first, second, alpha=ALPHA)
    assert -1 <= low <= first[0] / max(first[1], 1) - second[0] / second[1] <= high <= 1 or not first[1]
    assert low < high


def test_rate_evidence_grows_with_what_speaks_for_it() -> None:
    above = rate_evidence(np.arange(101), 100, rate=0.2, side="greater", prior=20)
    below = rate_evidence(np.arange(101), 100, rate=0.2, side="less", prior=20)
    assert (np.diff(above) > 0).all()
    assert (np.diff(below) < 0).all()
    assert above[20] < 0
    assert below[20] < 0
    assert above[60] > math.log(1000)


def test_quantile_bounds_cover_the_quantile_at_every_look() -> None:
    rng = np.random.default_rng(5)
    true = -math.log(0.05)  # the 95 % quantile of the standard exponential
    looks = np.unique(np.geomspace(30, 2000, 25).astype(int))
    low_missed = high_missed = 0
    for _ in range(200):
        x = rng.exponential(size=2000)
        bounds = [quantile_bounds(x[:n], quantile=0.95, alpha=ALPHA) for n in looks]
        low_missed += any(low > true for low, _ in bounds)
        high_missed += any(high < true for _, high in bounds)
    assert low_missed / 200 <= TOLERATED
    assert high_missed / 200 <= TOLERATED


def test_quantile_bounds_narrow_and_know_what_they_cannot_say() -> None:
    x = np.arange(1000.0)
    low, high = quantile_bounds(x, quantile=0.95, alpha=ALPHA)
    assert 900 < low < 950 < high < 985
    assert quantile_bounds(x[:20], quantile=0.95, alpha=ALPHA)[1] == math.inf
    assert quantile_bounds([], quantile=0.95, alpha=ALPHA) == (-math.inf, math.inf)
    assert quantile_bounds(np.where(x > 900, np.inf, x), quantile=0.95, alpha=ALPHA)[1] == math.inf
    assert quantile_bounds(np.full(1000, 3.0), quantile=0.95, alpha=ALPHA) == (3.0, 3.0)  # ties


def test_a_look_at_20000_observations_is_quick() -> None:
    x = differences(np.random.default_rng(0), 20_000, 0.08, 0.0)

    def seconds(call) -> float:
        times = []
        for _ in range(5):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        return min(times)

    assert seconds(lambda: betting_process(x, null=0.0, side="greater", effect=0.02, low=-1, high=1)) < 0.05
    assert seconds(lambda: mean_bounds(x, alpha=ALPHA, low=-1, high=1)) < 0.05
    assert seconds(lambda: quantile_bounds(x, quantile=0.95, alpha=ALPHA)) < 0.05
    assert seconds(lambda: rate_difference_bounds((50, 10_000), (40, 10_000), alpha=ALPHA)) < 0.1
