"""The verdict: the worst wins, an error is no pass, silence never promotes, and realistic releases end as they should."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from bentos.policy.load import parse_policy
from bentos.policy.metrics import Metrics
from bentos.policy.release import ReleasePolicy
from monitoring.evidence.check import CheckResult
from monitoring.interface import Outcome, PermanentMonitoringError
from monitoring.verdict import examine, judge, judge_check, judge_first, window_share

POLICY = ReleasePolicy()
OFF = dict.fromkeys(Metrics.model_fields)


def only(**metrics) -> ReleasePolicy:
    return parse_policy({"metrics": {**OFF, **metrics}}, where="test")


def test_a_sound_shadow_promotes_with_every_metric(make_evidence) -> None:
    verdict, notes = examine(make_evidence("shadow", 500), POLICY)
    assert verdict.outcome is Outcome.PROMOTE
    assert {metric.metric for metric in verdict.metrics} == {
        "error_rate",
        "latency",
        "disagreement",
        "drift",
        "input_schema",
    }
    assert notes == ("labels: 0 labelled pairs, 100 needed; not required",)


def test_a_sound_split_promotes(make_evidence) -> None:
    verdict, notes = examine(make_evidence("split", 1000), POLICY)
    assert verdict.outcome is Outcome.PROMOTE
    assert {note.partition(":")[0] for note in notes} == {"disagreement", "labels", "drift"}


@pytest.mark.parametrize(
    ("given", "metric"),
    [
        ({"candidate_status": np.where(np.arange(500) % 5 == 0, 500.0, 200.0)}, "error_rate"),
        ({"candidate_ms": 500.0}, "latency"),
        ({"candidate": np.where(np.arange(500) % 2 == 0, 0.0, 1.0)}, "disagreement"),
        ({"candidate": np.where(np.arange(500) % 6 == 0, 0.0, 1.0), "label": 1.0}, "labels"),
        ({"prediction_drift": 0.9}, "drift"),
        ({"invalid": 200}, "input_schema"),
    ],
)
def test_one_metric_rolls_back(make_evidence, given, metric) -> None:
    verdict = judge(make_evidence("shadow", 500, **given), POLICY)
    assert verdict.outcome is Outcome.ROLLBACK
    assert metric in {found.metric for found in verdict.metrics if found.outcome is Outcome.ROLLBACK}
    assert verdict.reason


def test_an_error_in_a_metric_is_an_error_and_wins(make_evidence) -> None:
    evidence = make_evidence("shadow", 500, candidate_status=500.0)
    broken = replace(evidence, answers=evidence.answers.drop(columns="candidate"))
    verdict = judge(broken, POLICY)
    assert verdict.outcome is Outcome.ERROR
    assert "could not be computed: KeyError" in verdict.reason
    assert Outcome.ROLLBACK in {metric.outcome for metric in verdict.metrics}


@pytest.mark.parametrize(
    ("stage", "n", "needs"), [("shadow", 299, 1), ("shadow", 0, 300), ("split", 298, 1), ("split", 0, 150)]
)
def test_a_small_window_is_inconclusive_and_says_how_much_more(make_evidence, stage, n, needs) -> None:
    verdict = judge(make_evidence(stage, n), only(input_schema={"max_invalid": 1.0}))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert next(metric for metric in verdict.metrics if metric.metric == "window").needs == needs


@pytest.mark.parametrize("stage", ["shadow", "split"])
def test_a_window_with_much_of_the_log_missing_is_not_whole(make_evidence, stage) -> None:
    whole = make_evidence(stage, 1000)
    records = int(whole.requests[["baseline_status", "candidate_status"]].notna().to_numpy().sum())
    few, many = (replace(whole, dropped=round(records * share)) for share in (0.009, 0.011))
    assert judge(few, POLICY).outcome is Outcome.PROMOTE
    verdict = judge(many, POLICY)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert f"{many.dropped} of {records + many.dropped} records could not be written" in verdict.reason
    assert (
        judge(many, parse_policy({"metrics": {"error_rate": {"max_increase": 0.02}}}, where="test")).outcome
        is Outcome.PROMOTE
    )
    failing = make_evidence(stage, 1000, candidate_status=500.0)
    assert judge(replace(failing, dropped=5000), POLICY).outcome is Outcome.ROLLBACK


@pytest.mark.parametrize(("stage", "n"), [("shadow", 300), ("split", 300)])
def test_a_window_of_the_policys_size_can_promote(make_evidence, stage, n) -> None:
    assert judge(make_evidence(stage, n), only(input_schema={"max_invalid": 1.0})).outcome is Outcome.PROMOTE


def test_a_small_window_can_roll_back(make_evidence) -> None:
    assert judge(make_evidence("shadow", 100, candidate_status=500.0), POLICY).outcome is Outcome.ROLLBACK


@pytest.mark.parametrize("stage", ["shadow", "split"])
def test_no_metric_never_promotes(make_evidence, stage) -> None:
    assert judge(make_evidence(stage, 5000), only()).outcome is Outcome.INCONCLUSIVE
    assert judge(make_evidence(stage, 5000), only(labels={})).outcome is Outcome.INCONCLUSIVE


def test_required_labels_without_a_shadow_never_promote(make_evidence) -> None:
    policy = parse_policy(
        {"shadow": {"percent": 0}, "metrics": {**OFF, "labels": {"required": True}, "error_rate": {}}}, where="test"
    )
    verdict = judge(make_evidence("split", 1500), policy)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "shadow.percent" in verdict.reason


def test_a_release_spends_its_alpha_once() -> None:
    def spent(**values) -> float:
        policy = parse_policy(values, where="test")
        shadow = window_share("shadow", policy) if policy.shadow.percent > 0 else 0.0
        return shadow + len(policy.split.steps) * window_share("split", policy)

    assert spent() == pytest.approx(1.0)
    assert spent(split={"steps": [5, 10, 50]}) == pytest.approx(1.0)
    assert spent(split={"steps": []}) == pytest.approx(1.0)
    assert spent(shadow={"percent": 0}) == pytest.approx(1.0)


def test_the_same_evidence_gives_the_same_verdict(make_evidence) -> None:
    first, second = (make_evidence("split", 700, fallback=np.arange(700) % 50 == 0) for _ in range(2))
    assert examine(first, POLICY) == examine(second, POLICY)


def test_a_replay_is_for_judge_first(make_evidence) -> None:
    with pytest.raises(PermanentMonitoringError, match="judge_first"):
        judge(replace(make_evidence(), stage="replay", baseline=None), POLICY)


GOOD = CheckResult(rows=200, mismatches=0, largest_difference=0.0, errors=0, tolerance=1e-9)


@pytest.mark.parametrize(
    ("check", "replay", "expected"),
    [
        (GOOD, GOOD, Outcome.PROMOTE),
        (replace(GOOD, mismatches=1, largest_difference=0.5), GOOD, Outcome.ROLLBACK),
        (GOOD, replace(GOOD, errors=1), Outcome.ROLLBACK),
        (GOOD, None, Outcome.INCONCLUSIVE),
        (None, None, Outcome.INCONCLUSIVE),
        (GOOD, replace(GOOD, rows=0), Outcome.INCONCLUSIVE),
    ],
)
def test_a_first_version(check, replay, expected) -> None:
    verdict = judge_first("1", check, replay)
    assert (verdict.outcome, verdict.baseline, verdict.stage) == (expected, "none", "replay")


def test_a_check_says_what_differed() -> None:
    why = judge_check("wire_check", replace(GOOD, mismatches=2, largest_difference=0.5)).why
    assert why == "wire_check: 2 of 200 answers differ (largest 0.5, tolerance 1e-09), 0 failed"


def realistic(make_evidence, seed: int, n: int, disagreement: float, gain: float, failing: float = 0.0):
    """A noisy shadow: a baseline that is wrong 15 % of the time, a candidate that differs and gains, labels on 80 %."""
    rng = np.random.default_rng(seed)
    wrong, chance, late = rng.random(n) < 0.15, rng.random(n), rng.random(n) < 0.25
    cured = wrong & (chance < (disagreement + gain) / 2 / 0.15)
    spoilt = ~wrong & (chance < (disagreement - gain) / 2 / 0.85)
    return make_evidence(
        "shadow",
        n,
        baseline=(late ^ wrong).astype(float),
        candidate=(late ^ ((wrong & ~cured) | spoilt)).astype(float),
        label=np.where(rng.random(n) < 0.8, late.astype(float), np.nan),
        baseline_ms=3 * np.exp(0.5 * rng.normal(size=n)),
        candidate_ms=3 * np.exp(0.5 * rng.normal(size=n)),
        candidate_status=np.where(rng.random(n) < failing, 500.0, 200.0),
    )


@pytest.mark.parametrize(
    ("n", "given", "expected"),
    [
        (600, {"disagreement": 0.08, "gain": 0.01}, Outcome.PROMOTE),
        (600, {"disagreement": 0.0, "gain": 0.0}, Outcome.PROMOTE),
        (400, {"disagreement": 0.4, "gain": -0.15}, Outcome.ROLLBACK),
        (1500, {"disagreement": 0.1, "gain": -0.05}, Outcome.ROLLBACK),
        (500, {"disagreement": 0.08, "gain": 0.01, "failing": 0.05}, Outcome.ROLLBACK),
    ],
)
def test_realistic_releases(make_evidence, n, given, expected) -> None:
    outcomes = [judge(realistic(make_evidence, seed, n, **given), POLICY).outcome for seed in range(20)]
    assert outcomes.count(expected) >= 17, outcomes


def test_importing_the_verdict_is_light() -> None:
    code = "import sys, monitoring.verdict; print([m for m in ('evidently', 'pandera', 'scipy', 'mlflow', 'pandas') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
