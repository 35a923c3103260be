"""monitor-model: drift of live traffic against the training reference."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prefect import flow, get_run_logger

if TYPE_CHECKING:
    from flows.release.line import Line
    from monitoring.evidence.evidence import Drift

DRIFTED = "shipway.model.drifted"  # the Prefect event


@flow(name="monitor-model", flow_run_name="monitor {model}", persist_result=False)
def monitor_model(model: str | None = None, hours: float = 24.0) -> dict[str, str]:
    """Compares live inputs and predictions with the training reference; emits a Prefect event when they drift.

    Args:
        model: Name of the registered model; empty: every model that is routed.
        hours: How far back the live window reaches, in hours.
    """
    from flows.release.line import open_line

    line = open_line()
    log = get_run_logger()
    said = {}
    for name in [model] if model else sorted(line.gateway.plans()):
        said[name] = look(line, name, hours)
        log.info(f"{name}: {said[name]}")
    return said


def look(line: Line, model: str, hours: float) -> str:
    """One model's drift; returns what was found in one line."""
    from flows.release.line import policy_of
    from flows.telling.prefect_teller import as_task

    version = line.registry.aliases(model).get("champion")
    rules, _ = policy_of(line.settings, model, None)
    metric = rules.metrics.drift
    if version is None or metric is None:
        return "no champion" if version is None else "the policy has no drift metric"
    found: list[Drift] = []

    def compute() -> str:
        found.append(live_drift(line, model, version, hours))
        return found[0].note

    as_task(f"drift of {model}/{version}", compute)
    drift = found[0]
    if drift.rows < metric.min_rows:
        return f"{drift.rows} live rows, {metric.min_rows} needed: not judged. {drift.note}".strip()
    drifted = [column for column in drift.inputs if column.score > column.threshold]
    _tell(model, version, drift)
    if not drifted:
        return f"no drift in {len(drift.inputs)} columns over {drift.rows} rows. {drift.note}".strip()
    _emit(model, version, drift, [column.column for column in drifted])
    return f"{len(drifted)} of {len(drift.inputs)} columns drifted: {', '.join(c.column for c in drifted)}"


def live_drift(line: Line, model: str, version: str, hours: float) -> Drift:
    """Drift of the last *hours* of live inputs of *version* against its reference; the report is kept in the store."""
    from dataclasses import replace

    import pandas as pd

    from bentos.serving.inputs.signature import load_signature
    from flows.release.check import reference_of
    from flows.release.line import policy_of
    from flows.release.prepare import prepare
    from monitoring.evidence.drift import compute_drift
    from monitoring.evidence.evidence import Drift
    from monitoring.log.pairs import LogReader

    rules, _ = policy_of(line.settings, model, None)
    assert rules.metrics.drift is not None
    prepared = prepare(line, model, version, rules)
    reference = reference_of(line, prepared, rules)
    if reference.path is None:
        return Drift(note=reference.note)
    reader = LogReader(
        line.settings.predictions,
        model=model,
        baseline=None,
        candidate=version,
        since_ns=int((time.time() - hours * 3600) * 1e9),
        signature=load_signature(prepared.artifacts),
        output=rules.metrics.output,
        stage="replay",
    )
    reader.poll()
    evidence = reader.evidence("replay")
    inputs = evidence.inputs.drop(columns=["seq", "request_id", "assigned"])
    html = line.scratch / "monitor" / f"{model}.html"
    html.parent.mkdir(parents=True, exist_ok=True)
    drift = compute_drift(
        inputs, evidence.answers[["baseline", "candidate"]], pd.read_parquet(reference.path), rules.metrics.drift, html
    )
    if html.exists():
        line.store.put(f"{model}/drift.html", html)
    return replace(drift, rows=len(inputs))


def _tell(model: str, version: str, drift: Drift) -> None:
    from prefect.artifacts import create_table_artifact

    from flows.telling.tell import key

    rows = [{"column": c.column, "method": c.method, "score": c.score, "threshold": c.threshold} for c in drift.inputs]
    create_table_artifact(
        rows, key=key(model, "drift"), description=f"Live inputs of {model}/{version}, {drift.rows} rows"
    )


def _emit(model: str, version: str, drift: Drift, columns: list[str]) -> None:
    from prefect.events import emit_event

    emit_event(
        DRIFTED,
        resource={"prefect.resource.id": f"shipway.model.{model}", "shipway.version": version},
        payload={"columns": columns, "rows": drift.rows},
    )
