"""Drift as a gate: what Evidently scored, against the policy's bounds, on windows large enough for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bentos.policy.metrics import DriftMetric
from monitoring.evidence.evidence import BETWEEN_ARMS
from monitoring.evidence.values import without_pairs
from monitoring.interface import MetricVerdict, Outcome, worst
from monitoring.metrics.interface import Levels, Silent

if TYPE_CHECKING:
    from monitoring.evidence.evidence import ColumnDrift, Evidence

METRIC = "drift"


def judge(evidence: Evidence, policy: DriftMetric, levels: Levels) -> MetricVerdict | Silent:
    """Gates the predictions of both arms on the same requests, and the share of drifted input columns, where bounded.

    A score is a measure of size and not a test, so *levels* is not spent; windows under ``min_rows`` are INCONCLUSIVE.
    What the policy does not bound is only told.
    """
    del levels
    found: dict[str, float | int | str | None] = {"rows": evidence.drift.rows}
    parts = [_predictions(evidence, policy, found), _inputs(evidence, policy, found)]
    gates = [part for part in parts if isinstance(part, MetricVerdict)]
    told = "; ".join(part.why for part in (gates or parts) if part is not None) or "no gate is set"
    if not gates:
        return Silent(METRIC, told, found)
    outcome = worst([gate.outcome for gate in gates])
    why = "; ".join(gate.why for gate in gates if gate.outcome is outcome)
    needs = [gate.needs for gate in gates if gate.needs is not None]
    return MetricVerdict(METRIC, outcome, why, found, max(needs) if needs else None)


def _predictions(
    evidence: Evidence, policy: DriftMetric, found: dict[str, float | int | str | None]
) -> MetricVerdict | Silent | None:
    outputs = [column for column in evidence.drift.predictions if column.column.partition(": ")[0] == BETWEEN_ARMS]
    between = max(outputs, key=lambda column: column.score, default=None)
    if between is not None:
        found |= {"prediction_drift": between.score, "prediction_rows": between.rows}
    most = policy.max_prediction_drift
    if most is None:
        return None
    if without_pairs(evidence):
        return Silent(METRIC, "no joined predictions: in a split each request is answered by one arm")
    if between is None:
        why = f"prediction drift not computed: {evidence.drift.note or 'no joined predictions'}"
        return MetricVerdict(METRIC, Outcome.INCONCLUSIVE, why, found, policy.min_rows)
    if between.rows < policy.min_rows:
        return _too_few("prediction drift", between.rows, policy.min_rows, found)
    output = between.column.partition(": ")[2]
    words = f"prediction drift{f' of {output}' if output else ''} ({between.method}) {between.score:.3f}"
    if between.score > most:
        return MetricVerdict(METRIC, Outcome.ROLLBACK, f"{words} > {most:g} (n={between.rows})", found)
    return MetricVerdict(METRIC, Outcome.PROMOTE, f"{words} <= {most:g} (n={between.rows})", found)


def _inputs(
    evidence: Evidence, policy: DriftMetric, found: dict[str, float | int | str | None]
) -> MetricVerdict | Silent | None:
    columns = evidence.drift.inputs
    drifted = [column for column in columns if column.score > policy.threshold]
    share = len(drifted) / len(columns) if columns else None
    found |= {"input_columns": len(columns), "drifted_columns": len(drifted), "drifted_share": share}
    if drifted:
        found["drifted"] = ", ".join(f"{column.column} {column.score:.2f}" for column in _worst_first(drifted)[:5])
    if policy.max_share >= 1:
        return Silent(METRIC, _told(columns, drifted, evidence.drift.note))
    if share is None:
        why = f"input drift not computed: {evidence.drift.note or 'no reference'}"
        return MetricVerdict(METRIC, Outcome.INCONCLUSIVE, why, found)
    rows = min(column.rows for column in columns)
    if rows < policy.min_rows:
        return _too_few("input drift", rows, policy.min_rows, found)
    words = f"{share:.2f} of {len(columns)} input columns drifted"
    if share > policy.max_share:
        return MetricVerdict(METRIC, Outcome.ROLLBACK, f"{words} > {policy.max_share:g}: {found['drifted']}", found)
    return MetricVerdict(METRIC, Outcome.PROMOTE, f"{words} <= {policy.max_share:g}", found)


def _too_few(what: str, rows: int, least: int, found: dict[str, float | int | str | None]) -> MetricVerdict:
    why = f"{what} needs {least} rows, found {rows}; {least - rows} more needed"
    return MetricVerdict(METRIC, Outcome.INCONCLUSIVE, why, found, least - rows)


def _told(columns: tuple[ColumnDrift, ...], drifted: list[ColumnDrift], note: str) -> str:
    if not columns:
        return f"input drift not computed: {note or 'no reference'}"
    return f"{len(drifted)} of {len(columns)} input columns drifted; reported only"


def _worst_first(columns: list[ColumnDrift]) -> list[ColumnDrift]:
    return sorted(columns, key=lambda column: -column.score)
