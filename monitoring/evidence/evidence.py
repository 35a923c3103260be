"""Evidence: one frozen window of what both arms answered, and where its rows lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from monitoring.interface import PermanentMonitoringError, Stage

if TYPE_CHECKING:
    import pandas as pd

FRAMES = ("requests", "answers", "inputs")
FORMAT = 1
BETWEEN_ARMS = (
    "candidate_vs_baseline"  # the drift of predictions that gates; ": <output>" follows where there are several
)


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

    ``requests``: one row per live request (of a split: also those mirrored in the shadow before it), in the order in which its facts were complete (``seq``): seq, request_id,
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

    def save(self, folder: Path) -> str:
        """Writes evidence.json and one Parquet file per frame into *folder*; returns the evidence's digest.

        The digest is ``sha256:…`` of evidence.json, which holds the digest of every Parquet file, so that one changed
        byte of any of them is found by ``load``. Columns of mixed Python values are kept as JSON text.
        """
        folder.mkdir(parents=True, exist_ok=True)
        frames = {name: _write_frame(getattr(self, name), folder / f"{name}.parquet") for name in FRAMES}
        values = {
            "format": FORMAT,
            "model": self.model,
            "stage": self.stage,
            "baseline": self.baseline,
            "candidate": self.candidate,
            "started_ns": self.started_ns,
            "ended_ns": self.ended_ns,
            "drift": asdict(self.drift),
            "invalid_rows": self.invalid_rows,
            "gateway": {arm: dict(counters) for arm, counters in self.gateway.items()},
            "dropped": self.dropped,
            "notes": list(self.notes),
            "frames": frames,
        }
        text = json.dumps(values, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
        (folder / "evidence.json").write_text(text, encoding="utf-8")
        return _digest(text.encode())


def load(folder: Path, *, digest: str | None = None) -> Evidence:
    """The evidence that ``save`` wrote, equal to what was saved.

    Raises PermanentMonitoringError naming the file when one is missing, unreadable or altered; *digest* (as ``save``
    returned it) covers evidence.json itself.
    """
    content = _read(folder / "evidence.json")
    if digest is not None and _digest(content) != digest:
        raise PermanentMonitoringError(
            f"evidence {folder / 'evidence.json'}: expected {digest}, found {_digest(content)}: it was altered after it "
            "was recorded. Restore it from a backup; its verdict cannot be trusted."
        )
    try:
        values = json.loads(content)
        frames = {name: _read_frame(folder / f"{name}.parquet", values["frames"][name]) for name in FRAMES}
        drift = Drift(
            inputs=tuple(ColumnDrift(**column) for column in values["drift"]["inputs"]),
            predictions=tuple(ColumnDrift(**column) for column in values["drift"]["predictions"]),
            rows=values["drift"]["rows"],
            note=values["drift"]["note"],
        )
        return Evidence(
            model=values["model"],
            stage=values["stage"],
            baseline=values["baseline"],
            candidate=values["candidate"],
            started_ns=values["started_ns"],
            ended_ns=values["ended_ns"],
            requests=frames["requests"],
            answers=frames["answers"],
            inputs=frames["inputs"],
            drift=drift,
            invalid_rows=values["invalid_rows"],
            gateway=values["gateway"],
            dropped=values["dropped"],
            notes=tuple(values["notes"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise PermanentMonitoringError(
            f"evidence {folder / 'evidence.json'}: not what Shipway wrote (format {FORMAT}): {error!r}. Restore it from a backup."
        ) from error


def digest(folder: Path) -> str:
    """The digest of the evidence in *folder*, after every file in it was checked; raises as ``load`` does."""
    found = _digest(_read(folder / "evidence.json"))
    load(folder, digest=found)
    return found


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PermanentMonitoringError(
            f"evidence {path}: cannot be read: {error.strerror}. Expected the folder that a release's evidence was saved to."
        ) from error


def _write_frame(frame: pd.DataFrame, path: Path) -> dict[str, Any]:
    """Writes *frame* without its index; returns its digest and the columns kept as JSON text."""
    frame = frame.reset_index(drop=True)
    as_json = [str(name) for name in frame.columns if _mixed(frame[name])]
    if as_json:
        frame = frame.assign(**{name: [json.dumps(_plain(value)) for value in frame[name]] for name in as_json})
    frame.to_parquet(path, index=False)
    return {"sha256": _digest(path.read_bytes()), "rows": len(frame), "json": as_json}


def _read_frame(path: Path, entry: Mapping[str, Any]) -> pd.DataFrame:
    import io

    import pandas as pd

    content = _read(path)
    if _digest(content) != entry["sha256"]:
        raise PermanentMonitoringError(
            f"evidence {path}: expected {entry['sha256']}, found {_digest(content)}: it was altered after it was recorded. "
            "Restore it from a backup; its verdict cannot be trusted."
        )
    frame = pd.read_parquet(io.BytesIO(content))
    for name in entry["json"]:
        frame[name] = pd.Series([json.loads(text) for text in frame[name]], dtype=object, index=frame.index)
    return frame


def _mixed(column: pd.Series[Any]) -> bool:
    """Whether Parquet would not give this column back as it is: objects other than texts (or bytes) and None."""
    if column.dtype != object:
        return False
    kinds = {type(value) for value in column}
    return not (kinds <= {str, type(None)} or kinds <= {bytes, type(None)}) or kinds == {type(None)}


def _plain(value: Any) -> Any:
    """*value* as JSON knows it: numpy scalars and arrays as numbers and lists, anything unknown as its text."""
    if hasattr(value, "tolist"):
        return cast(Any, value).tolist()
    return value if isinstance(value, str | int | float | bool | list | dict | None) else str(value)
