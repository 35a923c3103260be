"""Release: one release as the tags of its MLflow run describe it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from monitoring.ledger.record import NONE
from monitoring.ledger.tracking import Run

PREFIX = "shipway."
FACT, OWNER, DIGEST, KEPT = (f"{PREFIX}{part}." for part in ("fact", "owner", "digest", "kept"))
CANDIDATE_TIMEOUT = "candidate_timeout."  # facts that say how long the candidate had in a split, and why
SECONDS = "seconds."  # facts that say how long a part of the release took
OUTCOMES = ("PROMOTED", "ROLLED_BACK", "ERROR", "INCONCLUSIVE", "CANCELLED")


@dataclass(frozen=True)
class Release:
    """One release as the ledger described it at one moment; times are unix seconds.

    ``baseline`` is None for a first version. ``attempt`` counts from 1. ``facts`` are what the flow noted. ``outcome``
    and ``reason`` are empty while it is open; an outcome is one of OUTCOMES.
    """

    run_id: str
    model: str
    candidate: str
    baseline: str | None
    attempt: int
    opened_at: float
    facts: Mapping[str, str] = field(default_factory=dict)
    open: bool = True
    outcome: str = ""
    reason: str = ""
    owner: Mapping[str, str] = field(default_factory=dict)
    heartbeat_at: float = 0.0
    closed_at: float | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    policy_source: str = ""
    record_hash: str = ""  # of the record, and its place in the model's chain, once closed
    sequence: int = 0
    experiment_id: str = ""  # with the run's id it names the release's page in MLflow
    numbers: Mapping[str, float] = field(default_factory=dict)  # of the last look at the evidence: ``<stage>.<what>``

    @property
    def name(self) -> str:
        """How people call it: ``model/version, attempt n``."""
        return f"{self.model}/{self.candidate}, attempt {self.attempt}"


def experiment(model: str) -> str:
    """The experiment that holds the releases of *model*."""
    return f"releases/{model}"


def confirmed(run: Run) -> bool:
    """Whether the run is a release, and no claim to one still."""
    return run.tags.get(f"{PREFIX}state") == "open"


def release_of(run: Run) -> Release:
    """The release that the run's tags describe."""
    tags = run.tags
    baseline = tags[f"{PREFIX}baseline"]
    return Release(
        run_id=run.run_id,
        model=tags[f"{PREFIX}model"],
        candidate=tags[f"{PREFIX}candidate"],
        baseline=None if baseline == NONE else baseline,
        attempt=int(tags[f"{PREFIX}attempt"]),
        opened_at=run.started_ms / 1000,
        facts=under(tags, FACT),
        open=run.running,
        outcome=tags.get(f"{PREFIX}outcome", ""),
        reason=tags.get(f"{PREFIX}reason", ""),
        owner=under(tags, OWNER),
        heartbeat_at=float(tags[f"{PREFIX}heartbeat"]),
        closed_at=run.ended_ms / 1000 if run.ended_ms is not None else None,
        digests=under(tags, DIGEST),
        policy_source=tags[f"{PREFIX}policy_source"],
        record_hash=tags.get(f"{PREFIX}record", ""),
        sequence=int(tags.get(f"{PREFIX}sequence", 0)),
        experiment_id=run.experiment_id,
        numbers=dict(run.numbers),
    )


def under(tags: Mapping[str, str], prefix: str) -> dict[str, str]:
    """The tags whose names begin with *prefix*, without it."""
    return {key.removeprefix(prefix): value for key, value in sorted(tags.items()) if key.startswith(prefix)}


def people(owner: Mapping[str, str]) -> str:
    """An owner as people read it."""
    return ", ".join(f"{key} {value}" for key, value in owner.items()) or "an unnamed owner"
