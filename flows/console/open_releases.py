"""The open releases as ``shipway status`` tells them: how far each is, what it has seen, and who carries it out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from flows.release.owner import alive, here
from flows.stack.parts import Servers
from infra.pages import run_page
from infra.settings import StackSettings
from monitoring.ledger.ledger import Ledger, MlflowFiles
from monitoring.ledger.release import Release
from monitoring.ledger.tracking import MlflowRuns

BEGAN = "began."  # facts that say when an evaluation stage began
APPROVAL = "approval"
_COUNTS = ("requests", "pairs", "to_candidate", "fallbacks", "labels")


def open_releases(settings: StackSettings, servers: Servers, timeout: float) -> list[dict[str, Any]]:
    """Every open release, the newest first. Raises TransientMonitoringError where MLflow does not answer in *timeout* seconds."""
    scratch = settings.root / "releases" / "files"
    runs = MlflowRuns(servers.mlflow, files=MlflowFiles(scratch), timeout=timeout)
    ledger = Ledger(servers.mlflow, scratch, runs=runs)
    pages = settings.mlflow_pages or servers.mlflow
    return [told(release, time.time(), pages) for release in ledger.all_open()]


def told(release: Release, now: float, pages: str) -> dict[str, Any]:
    """One open release as plain values; times are unix seconds, *pages* is where browsers reach MLflow."""
    stage, since = stage_of(release)
    kind = stage.partition("-")[0]
    return {
        "model": release.model,
        "version": release.candidate,
        "baseline": release.baseline,
        "attempt": release.attempt,
        "stage": stage,
        "stage_since": since,
        "waiting_until": float(release.facts["waiting_until"]) if stage == APPROVAL else None,
        "opened_at": release.opened_at,
        "evidence": {
            count: int(release.numbers[f"{kind}.{count}"]) for count in _COUNTS if f"{kind}.{count}" in release.numbers
        },
        "owner": dict(release.owner),
        "owner_alive": alive(release.owner, release.heartbeat_at, now),
        "owner_here": release.owner.get("host") == here(),
        "heartbeat_at": release.heartbeat_at,
        "run_id": release.run_id,
        "page": run_page(pages, release.experiment_id, release.run_id),
    }


def stage_of(release: Release) -> tuple[str, float | None]:
    """How far an open release is, in the words of its steps, and since when where that was noted."""
    facts: Mapping[str, str] = release.facts
    if "committed_at" in facts:
        return "bake", float(facts["committed_at"])
    if decision := facts.get("decision"):
        return f"decided: {decision}", float(facts["decided_at"]) if "decided_at" in facts else None
    if "waiting_until" in facts and "approved" not in facts:
        return APPROVAL, None
    if began := {name.removeprefix(BEGAN): float(at) for name, at in facts.items() if name.startswith(BEGAN)}:
        return max(began.items(), key=lambda item: item[1])
    if "built" in facts:
        return "check", None
    return ("build" if "vetted" in facts else "vet"), release.opened_at if "vetted" not in facts else None
