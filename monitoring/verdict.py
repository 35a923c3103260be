"""The verdict of one window of evidence: pure, and the same whenever it is computed again from the same evidence.

Promotion is an intersection-union test: every metric must agree, so each may spend the whole of alpha. Rollback is a
union: alpha is shared out among the windows of the release and the metrics of each (Bonferroni), so that the chance that
a sound candidate is ever rolled back by chance stays below alpha. Drift compares a score with a bound and spends none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bentos.policy.release import ReleasePolicy
from monitoring.evidence.check import CheckResult
from monitoring.interface import MetricVerdict, Outcome, PermanentMonitoringError, Stage, Verdict, worst
from monitoring.metrics import disagreement, drift, error_rate, input_schema, labels, latency
from monitoring.metrics.interface import Levels, Silent

if TYPE_CHECKING:
    from monitoring.evidence.evidence import Evidence

Judge = Callable[..., MetricVerdict | Silent]

JUDGES: dict[str, Judge] = {
    "error_rate": error_rate.judge,
    "latency": latency.judge,
    "disagreement": disagreement.judge,
    "labels": labels.judge,
    "drift": drift.judge,
    "input_schema": input_schema.judge,
}
# What each metric may spend of a window's alpha; failing and losing more weigh most.
SPENDING = {"error_rate": 0.35, "labels": 0.3, "disagreement": 0.15, "latency": 0.1, "input_schema": 0.1}


LARGEST_LOSS = 0.01  # share of records that may be missing where the policy tolerates no error rate


def judge(evidence: Evidence, policy: ReleasePolicy) -> Verdict:
    """The verdict of *evidence* (a shadow or a split) under *policy*; the worst metric wins, silence never promotes.

    Raises PermanentMonitoringError for a replay, which ``judge_first`` judges.
    """
    return examine(evidence, policy)[0]


def examine(evidence: Evidence, policy: ReleasePolicy) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict, and a note for every metric that was left out of it because it had nothing to say."""
    if evidence.stage == "replay" or evidence.baseline is None:
        raise PermanentMonitoringError(
            f"evidence of {evidence.model}/{evidence.candidate}: stage {evidence.stage} with baseline {evidence.baseline} "
            "has nothing to compare; expected a shadow or a split with a baseline. Use judge_first."
        )
    active = {name: settings for name in JUDGES if (settings := getattr(policy.metrics, name)) is not None}
    answers = [
        _ask(name, evidence, settings, _levels(name, active, evidence.stage, policy))
        for name, settings in active.items()
    ]
    answers = [_required(answer, policy) for answer in answers]
    metrics = [answer for answer in answers if isinstance(answer, MetricVerdict)]
    notes = tuple(f"{answer.metric}: {answer.why}" for answer in answers if isinstance(answer, Silent))
    metrics += [verdict for verdict in (_window(evidence, policy), _log(evidence, policy)) if verdict is not None]
    outcome = worst([metric.outcome for metric in metrics])
    return Verdict(evidence.stage, outcome, tuple(metrics), evidence.baseline, evidence.candidate), notes


def _ask(name: str, evidence: Evidence, settings: Any, levels: Levels) -> MetricVerdict | Silent:
    """One metric's answer; whatever it raises is an ERROR that says so, never a pass."""
    try:
        return JUDGES[name](evidence, settings, levels)
    except Exception as error:
        why = f"{name} could not be computed: {type(error).__name__}: {error}"
        return MetricVerdict(name, Outcome.ERROR, why, {"error": type(error).__name__})


def _required(answer: MetricVerdict | Silent, policy: ReleasePolicy) -> MetricVerdict | Silent:
    """Labels that the policy requires may be silent in a split only where a shadow has decided them."""
    required = policy.metrics.labels is not None and policy.metrics.labels.required and policy.shadow.percent <= 0
    if isinstance(answer, Silent) and answer.metric == labels.METRIC and required:
        why = f"{answer.why}; labels are required, so shadow.percent must be above 0"
        return MetricVerdict(answer.metric, Outcome.INCONCLUSIVE, why, answer.numbers)
    return answer


def _levels(name: str, active: dict[str, Any], stage: Stage, policy: ReleasePolicy) -> Levels:
    total = sum(SPENDING.get(other, 0.0) for other in active)
    share = SPENDING[name] / total if name in SPENDING else 1.0
    return Levels(promote=policy.alpha, rollback=policy.alpha * share * window_share(stage, policy))


def window_share(stage: Stage, policy: ReleasePolicy) -> float:
    """What one window may spend of the release's alpha: the shadow half, the split's steps the other half in equal parts."""
    steps = len(policy.split.steps)
    if stage == "shadow":
        return 0.5 if steps else 1.0
    return (0.5 if policy.shadow.percent > 0 else 1.0) / max(steps, 1)


def _window(evidence: Evidence, policy: ReleasePolicy) -> MetricVerdict | None:
    """INCONCLUSIVE while the window is smaller than the policy asks."""
    rows = evidence.requests[evidence.requests["stage"] == evidence.stage]
    if evidence.stage == "shadow":
        what, found, least = "mirrored pairs", int(rows["mirrored"].astype(bool).sum()), policy.shadow.min_pairs
    else:
        what, found, least = (
            "requests to the candidate",
            int((rows["assigned"] == "candidate").sum()),
            policy.split.min_requests,
        )
    if found >= least:
        return None
    why = f"{found} {what}, {least} needed; {least - found} more"
    return MetricVerdict("window", Outcome.INCONCLUSIVE, why, {"found": found, "needed": least}, least - found)


def _log(evidence: Evidence, policy: ReleasePolicy) -> MetricVerdict | None:
    """INCONCLUSIVE while servers could not log so much that failures might hide in it: a larger share of the records than
    the tolerated increase of the error rate. Less is told in the evidence's notes."""
    if not evidence.dropped:
        return None
    statuses = evidence.requests[["baseline_status", "candidate_status"]]
    logged = int(statuses.notna().to_numpy().sum())
    share = evidence.dropped / (evidence.dropped + logged)
    most = policy.metrics.error_rate.max_increase if policy.metrics.error_rate is not None else LARGEST_LOSS
    if share <= most:
        return None
    why = (
        f"prediction log: {evidence.dropped} of {evidence.dropped + logged} records could not be written, {share:.3f} > {most:g}:"
        " the evidence is not whole. Free the disk of the prediction log, or let it be faster"
    )
    numbers: dict[str, float | int | str | None] = {
        "dropped": evidence.dropped,
        "logged": logged,
        "largest_share": most,
    }
    return MetricVerdict("prediction_log", Outcome.INCONCLUSIVE, why, numbers)


def judge_first(candidate: str, check: CheckResult | None, replay: CheckResult | None) -> Verdict:
    """The verdict of a first version, which has nothing to be compared with: baseline "none".

    *check*: the wire check on the input example and a sample of the reference; *replay*: the whole replay of the
    reference. None where there was no reference data: INCONCLUSIVE.
    """
    metrics = (judge_check("wire_check", check), judge_check("replay", replay))
    return Verdict("replay", worst([metric.outcome for metric in metrics]), metrics, "none", candidate)


def judge_wire(baseline: str, candidate: str, check: CheckResult | None) -> Verdict:
    """The verdict of the wire check of a version that has a baseline: whether it may get any traffic at all."""
    metric = judge_check("wire_check", check)
    return Verdict("replay", metric.outcome, (metric,), baseline, candidate)


def judge_check(metric: str, result: CheckResult | None) -> MetricVerdict:
    """PROMOTE when every row was answered over the wire as in process, ROLLBACK when one was not."""
    if result is None or not result.rows:
        why = f"{metric}: no rows to send; log an input example or a reference with the model version"
        return MetricVerdict(metric, Outcome.INCONCLUSIVE, why, {"rows": 0})
    found: dict[str, float | int | str | None] = {
        "rows": result.rows,
        "mismatches": result.mismatches,
        "largest_difference": result.largest_difference if result.largest_difference != float("inf") else None,
        "errors": result.errors,
        "tolerance": result.tolerance,
    }
    counts = f"{result.mismatches} of {result.rows} answers differ (largest {result.largest_difference:.3g}, tolerance {result.tolerance:g}), {result.errors} failed"
    if result.first:
        counts += f"; {result.first}"
        found["first"] = result.first
    return MetricVerdict(metric, Outcome.PROMOTE if result.equal else Outcome.ROLLBACK, f"{metric}: {counts}", found)
