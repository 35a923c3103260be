"""The tables of evidence as they grow: rows are only ever appended, and keep their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from monitoring.log.bodies import Answer

if TYPE_CHECKING:
    import pandas as pd

REQUESTS = {
    "seq": "int64",
    "request_id": "object",
    "time_ns": "int64",
    "stage": "object",
    "assigned": "object",
    "fallback": "bool",
    "mirrored": "bool",
    "rows": "int64",
    "baseline_status": "Int64",
    "candidate_status": "Int64",
    "baseline_ms": "float64",
    "candidate_ms": "float64",
    "error": "object",
}
ANSWERS = (
    "seq",
    "request_id",
    "row",
    "baseline",
    "candidate",
    "baseline_score",
    "candidate_score",
    "label",
    "label_seq",
)


class Tables:
    """Requests, answers and inputs of one release, all stages together (``monitoring/evidence/evidence.py`` has the columns)."""

    def __init__(self) -> None:
        self._requests: dict[str, list[Any]] = {name: [] for name in REQUESTS}
        self._answers: dict[str, list[Any]] = {name: [] for name in ANSWERS}
        self._inputs: dict[str, list[Any]] = {"seq": [], "request_id": [], "assigned": []}
        self._invalid: list[int] = []  # rows that break the signature, one number a request
        self._where: dict[str, tuple[int, int]] = {}  # request id → its first row in answers, and how many
        self._labelled = 0

    def knows(self, request_id: str) -> bool:
        """Whether the request is in the tables."""
        return request_id in self._where

    def add(
        self,
        request: Mapping[str, Any],
        columns: Mapping[str, Sequence[Any]],
        baseline: Answer,
        candidate: Answer,
        invalid: int,
    ) -> None:
        """Appends one request with its input rows and answers."""
        seq, request_id = len(self._invalid), request["request_id"]
        for name, values in self._requests.items():
            values.append(seq if name == "seq" else request[name])
        self._invalid.append(invalid)
        self._add_inputs(seq, request, columns)
        rows = max(len(baseline.values), len(candidate.values))
        self._where[request_id] = (len(self._answers["seq"]), rows)
        for row in range(rows):
            values_of_row = (
                seq,
                request_id,
                row,
                _at(baseline.values, row),
                _at(candidate.values, row),
                _at(baseline.scores or (), row),
                _at(candidate.scores or (), row),
                None,
                None,
            )
            for column, value in zip(self._answers.values(), values_of_row, strict=True):
                column.append(value)

    def label(self, request_id: str, value: Any) -> bool:
        """Notes what really happened, one value or one a row; False where that was known, or the rows do not fit."""
        first, rows = self._where[request_id]
        values = value if isinstance(value, list) else [value]
        if len(values) != rows or self._answers["label_seq"][first] is not None:
            return False
        for row, known in enumerate(values, start=first):
            if known is not None:
                self._answers["label"][row] = known
                self._answers["label_seq"][row] = self._labelled
                self._labelled += 1
        return True

    def window(self, stage: str, since_ns: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, int]:
        """Requests, answers, inputs and the number of invalid rows of the requests of *stage* from *since_ns* on.

        In a split each request is answered by one arm, so the mirrored requests of the shadow before it, and the labels
        that still come for them, stay part of the evidence: their requests and answers, not their inputs.
        """
        import pandas as pd

        requests = pd.DataFrame(
            {name: pd.Series(values, dtype=REQUESTS[name]) for name, values in self._requests.items()}
        )
        chosen = ((requests["stage"] == stage) & (requests["time_ns"] >= since_ns)).to_numpy(dtype=bool)
        paired = (requests["stage"] == "shadow").to_numpy(dtype=bool) if stage == "split" else chosen
        answers = pd.DataFrame(self._answers, columns=list(ANSWERS))
        for name in ("label_seq",):
            answers[name] = answers[name].astype("Int64")
        for name in ("baseline_score", "candidate_score"):
            answers[name] = answers[name].astype("float64")
        inputs = pd.DataFrame(self._inputs)
        return (
            _of(requests, chosen | paired),
            _of(answers, chosen | paired),
            _of(inputs, chosen),
            int(np.asarray(self._invalid, dtype=np.int64)[chosen].sum()),
        )

    def _add_inputs(self, seq: int, request: Mapping[str, Any], columns: Mapping[str, Sequence[Any]]) -> None:
        rows = len(next(iter(columns.values()), ()))
        if not rows:
            return
        before = len(self._inputs["seq"])
        self._inputs["seq"].extend([seq] * rows)
        self._inputs["request_id"].extend([request["request_id"]] * rows)
        self._inputs["assigned"].extend([request["assigned"]] * rows)
        for name, values in columns.items():
            if name not in self._inputs:
                self._inputs[name] = [None] * before
            self._inputs[name].extend(values)
        for kept in self._inputs.values():
            if len(kept) < before + rows:
                kept.extend([None] * (before + rows - len(kept)))


def _at(values: Sequence[Any], row: int) -> Any:
    return values[row] if row < len(values) else None


def _of(frame: pd.DataFrame, chosen: np.ndarray[Any, np.dtype[np.bool_]]) -> pd.DataFrame:
    """The rows whose request is chosen."""
    if chosen.all():
        return frame
    kept: pd.DataFrame = frame.loc[chosen[frame["seq"].to_numpy(dtype=np.int64)]].reset_index(drop=True)
    return kept
