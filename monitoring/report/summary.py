"""Summary: what a window of evidence says, in the few numbers and lines that a report shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from monitoring.evidence.evidence import Evidence
from monitoring.evidence.values import as_classes, by_output, kind_of

if TYPE_CHECKING:
    import pandas as pd

BUCKETS = 40
Number = float | int | str | None


@dataclass(frozen=True)
class Summary:
    """One window. ``series`` are shares in [0, 1] over ``seconds`` (since the window's start), a bucket each; NaN where
    a bucket saw nothing.
    """

    name: str  # "shadow", "split-10"
    started_ns: int
    ended_ns: int
    counts: Mapping[str, Number]
    latency: Mapping[str, tuple[float, float, float] | None]  # arm → quantiles .5, .95, .99 in ms
    drifted: tuple[tuple[str, float, float], ...]  # column, score, threshold; highest first
    gateway: Mapping[str, Mapping[str, int]]
    notes: tuple[str, ...]
    seconds: tuple[float, ...] = ()
    series: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def summarise(evidence: Evidence, name: str | None = None) -> Summary:
    """The summary of a window, called *name* (else its stage): of the requests of its own stage."""
    requests = evidence.requests[evidence.requests["stage"] == evidence.stage].reset_index(drop=True)
    answers = evidence.answers[evidence.answers["seq"].isin(requests["seq"])].reset_index(drop=True)
    assigned = requests["assigned"] == "candidate"
    failed = _failed(requests)
    joined = answers.dropna(subset=["baseline", "candidate"])
    differs = _differs(joined)
    counts: dict[str, Number] = {
        "requests": len(requests),
        "assigned to the candidate": int(assigned.sum()),
        "mirrored to the candidate": int(requests["mirrored"].sum()),
        "failed by the candidate": int(failed.sum()),
        "of those, answered by the baseline": int(requests["fallback"].sum()),
        "failed by the baseline": int(_broke(requests["baseline_status"]).sum()),
        "joined answers": len(joined),
        "joined answers that differ": int(differs.sum()),
        "labelled answers": int(answers["label"].notna().sum()),
        "rows outside the signature": evidence.invalid_rows,
        "records that servers could not log": evidence.dropped,
    }
    seconds, buckets = _buckets(requests, evidence)
    rows = joined["seq"].map(dict(zip(requests["seq"], buckets, strict=True))).to_numpy(dtype=np.int64)
    drift = evidence.drift
    columns = [(column.column, column.score, column.threshold) for column in (*drift.predictions, *drift.inputs)]
    return Summary(
        name=name or evidence.stage,
        started_ns=evidence.started_ns,
        ended_ns=evidence.ended_ns,
        counts=counts,
        latency={arm: _quantiles(requests[f"{arm}_ms"]) for arm in ("baseline", "candidate")},
        drifted=tuple(sorted(columns, key=lambda column: -column[1])),
        gateway=evidence.gateway,
        notes=(*evidence.notes, *((f"drift: {drift.note}",) if drift.note else ())),
        seconds=tuple(seconds),
        series={
            "failed by the candidate": _shares(buckets, failed),
            "answers that differ": _shares(rows, differs),
        }
        if len(requests)
        else {},
    )


def _failed(requests: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Requests that the candidate should have answered and did not, or answered with 5xx or 429, by assignment."""
    return np.asarray(_broke(requests["candidate_status"]) | requests["fallback"].to_numpy(dtype=bool))


def _broke(status: pd.Series[Any]) -> npt.NDArray[np.bool_]:
    return ((status >= 500) | (status == 429)).fillna(value=False).to_numpy(dtype=bool)


def _differs(joined: pd.DataFrame) -> npt.NDArray[np.bool_]:
    if joined.empty:
        return np.zeros(0, dtype=bool)
    if kind_of(joined["baseline"], joined["candidate"]) == "class":
        return np.asarray(as_classes(joined["baseline"]) != as_classes(joined["candidate"]))
    outputs = by_output(joined["baseline"], joined["candidate"]).values()
    apart = [~np.isclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True) for a, b in outputs]
    return np.asarray(np.any(apart, axis=0))


def _quantiles(values: pd.Series[float]) -> tuple[float, float, float] | None:
    known = values.dropna().to_numpy(dtype=np.float64)
    if not known.size:
        return None
    half, most, nearly_all = (float(value) for value in np.quantile(known, [0.5, 0.95, 0.99]))
    return half, most, nearly_all


def _buckets(requests: pd.DataFrame, evidence: Evidence) -> tuple[list[float], npt.NDArray[np.int64]]:
    """Where buckets begin, in seconds since the window's start, and the bucket of each request."""
    whole = max((evidence.ended_ns - evidence.started_ns) / 1e9, 1e-9)
    at = (requests["time_ns"].to_numpy(dtype=np.int64) - evidence.started_ns) / 1e9
    buckets = np.clip((at / whole * BUCKETS).astype(np.int64), 0, BUCKETS - 1)
    return [number * whole / BUCKETS for number in range(BUCKETS)], buckets


def _shares(buckets: npt.NDArray[np.int64], hits: npt.NDArray[np.bool_]) -> tuple[float, ...]:
    """Share of *hits* a bucket; NaN where a bucket is empty."""
    seen = np.bincount(buckets, minlength=BUCKETS)
    hit = np.bincount(buckets, weights=hits.astype(np.float64), minlength=BUCKETS)
    return tuple(float(h / n) if n else float("nan") for h, n in zip(hit, seen, strict=True))
