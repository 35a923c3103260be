"""Paired losses decide where labels came; silence never speaks for a candidate."""

import numpy as np
import pytest

from bentos.policy.metrics import LabelMetric
from monitoring.interface import MetricVerdict, Outcome
from monitoring.metrics.interface import Levels, Silent
from monitoring.metrics.labels import judge, paired

LEVELS = Levels(promote=0.05, rollback=0.01)
N = 1500
RNG = np.random.default_rng(4)
ORDER = RNG.permutation(N)


def wrong(share: float, of: float = 1.0) -> np.ndarray:
    """Answers that differ from *of* in this share of rows."""
    return np.where(share * N > ORDER, 1.0 - of, of)


@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize(
    ("baseline", "candidate", "expected"),
    [
        (wrong(0.1), wrong(0.1), Outcome.PROMOTE),
        (wrong(0.12), wrong(0.05), Outcome.PROMOTE),
        (wrong(0.05), wrong(0.15), Outcome.ROLLBACK),
    ],
)
def test_decided(make_evidence, required, baseline, candidate, expected) -> None:
    evidence = make_evidence("shadow", N, baseline=baseline, candidate=candidate, label=1.0)
    verdict = judge(evidence, LabelMetric(required=required), LEVELS)
    assert isinstance(verdict, MetricVerdict)
    assert verdict.outcome is expected


@pytest.mark.parametrize("label", [np.nan, np.where(np.arange(N) < 99, 1.0, np.nan)])
def test_too_few_labels(make_evidence, label) -> None:
    evidence = make_evidence("shadow", N, candidate=0.0, label=label)
    silent = judge(evidence, LabelMetric(), LEVELS)
    assert isinstance(silent, Silent)
    assert "not required" in silent.why
    asked = judge(evidence, LabelMetric(required=True), LEVELS)
    assert asked.outcome is Outcome.INCONCLUSIVE
    assert asked.needs == 100 - np.isfinite(np.broadcast_to(label, N)).sum()


def test_undecided_pairs_that_speak_against_it_are_not_passed_over(make_evidence) -> None:
    few = np.where(np.arange(N) < 120, 1.0, np.nan)
    worse = np.where(np.arange(N) % 12 == 0, 0.0, 1.0)
    better = judge(make_evidence("shadow", N, baseline=worse, label=few), LabelMetric(margin=0.005), LEVELS)
    assert isinstance(better, Silent)
    against = judge(make_evidence("shadow", N, candidate=worse, label=few), LabelMetric(margin=0.005), LEVELS)
    assert isinstance(against, MetricVerdict)
    assert against.outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(
    ("loss", "expected"),
    [("auto", 0.25 - 0.05), ("absolute", 0.25 - 0.05), ("squared", 0.0625 * 10 / 10 - 0.0025), ("zero_one", 0.0)],
)
def test_losses(make_evidence, loss, expected) -> None:
    evidence = make_evidence("shadow", 10, baseline=2.25, candidate=1.95, label=2.0)
    assert paired(evidence.answers, LabelMetric(loss=loss)) == pytest.approx(np.full(10, expected))


def test_numeric_losses_are_scaled_and_clipped(make_evidence) -> None:
    evidence = make_evidence("shadow", 4, baseline=[1.5, 100.0, 2.5, 3.5], candidate=[2.5, 1.5, 500.0, 3.5], label=1.5)
    assert list(paired(evidence.answers, LabelMetric(scale=2.0))) == pytest.approx([-0.5, 1.0, -0.5, 0.0])


def test_labels_as_text_or_booleans_are_the_same_classes(make_evidence) -> None:
    evidence = make_evidence("shadow", 3, baseline=[1.0, 0.0, 1.0], candidate=1.0)
    evidence.answers["label"] = ["true", "1", True]
    assert list(paired(evidence.answers, LabelMetric())) == [0.0, 1.0, 0.0]


def test_pairs_come_in_the_order_of_their_labels(make_evidence) -> None:
    evidence = make_evidence("shadow", 3, baseline=[0.0, 1.0, 1.0], candidate=1.0, label=1.0)
    evidence.answers["label_seq"] = [2.0, 0.0, 1.0]
    assert list(paired(evidence.answers, LabelMetric())) == [0.0, 0.0, 1.0]


def test_a_split_without_a_mirror_is_silent(make_evidence) -> None:
    assert isinstance(judge(make_evidence("split", N, label=1.0), LabelMetric(required=True), LEVELS), Silent)
