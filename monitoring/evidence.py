"""Evidence: one frozen window of what both arms answered, and where its rows lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from monitoring.interface import Stage

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ColumnDrift:
    """Drift of one column: Evidently's score and the rows it was computed on."""

    column: str
    method: str
    score: float
    threshold: float
    rows: int


@dataclass(frozen=True)
class Drift:
    """What Evidently found: live inputs against the reference, predictions against the baseline's and the reference's."""

    inputs: tuple[ColumnDrift, ...] = ()
    predictions: tuple[ColumnDrift, ...] = ()
    rows: int = 0
    note: str = ""  # why something was not computed, for example "no reference"


@dataclass(frozen=True)
class Evidence:
    """One window of a release, enough to recompute its verdict.

    ``requests``: one row per live request, in the order in which its facts were complete (``seq``): seq, request_id,
    time_ns, stage (the stage it was sent in), assigned ("baseline" | "candidate"), fallback (bool: assigned to the
    candidate, answered by the baseline), mirrored (bool: the candidate got a copy and its record is there), rows,
    baseline_status, candidate_status (nullable), baseline_ms, candidate_ms (nullable), error (nullable).

    ``answers``: one row per predicted row: seq, request_id, row, baseline, candidate (nullable predictions),
    baseline_score, candidate_score (nullable), label (nullable), label_seq (order in which labels came; nullable).

    ``inputs``: one row per input row of the window: seq, request_id, assigned, then the model's input columns.

    ``gateway``: per arm ("baseline", "candidate") the growth of the gateway's counters over the window.
    """

    model: str
    stage: Stage
    baseline: str | None
    candidate: str
    started_ns: int
    ended_ns: int
    requests: pd.DataFrame
    answers: pd.DataFrame
    inputs: pd.DataFrame
    drift: Drift = field(default_factory=Drift)
    invalid_rows: int = 0  # input rows that break the signature's types or nullability
    gateway: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    dropped: int = 0  # records that servers could not log
    notes: tuple[str, ...] = ()
