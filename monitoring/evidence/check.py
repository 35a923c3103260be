"""CheckResult: answers over the wire against in-process predictions of the same rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class CheckResult:
    """How a sample was answered over the wire. ``errors``: rows that got no answer; ``mismatches``: answers that differ."""

    rows: int
    mismatches: int
    largest_difference: float  # of numeric answers; 0 where nothing differs, inf where shapes or kinds do
    errors: int
    tolerance: float

    @property
    def equal(self) -> bool:
        """Whether every row was answered, and as in process."""
        return self.rows > 0 and not self.mismatches and not self.errors


def compare(
    wire: pd.DataFrame | pd.Series[Any] | npt.ArrayLike | None,
    inprocess: pd.DataFrame | pd.Series[Any] | npt.ArrayLike,
    tolerance: float,
) -> CheckResult:
    """Compares row by row; a row differs when any of its values does.

    Numbers may differ by *tolerance* (absolute; NaN equals NaN), all else must be equal. *wire* is None when nothing was
    answered; rows it lacks are errors, and another shape makes every row a mismatch.
    """
    expected = _matrix(inprocess)
    rows = expected.shape[0]
    if wire is None:
        return CheckResult(rows, 0, 0.0, rows, tolerance)
    found = _matrix(wire)
    answered = min(rows, found.shape[0])
    surplus = found.shape[0] - answered
    if found.shape[1] != expected.shape[1]:
        return CheckResult(rows, answered + surplus, float("inf"), rows - answered, tolerance)
    differs = np.zeros(answered, dtype=bool)
    largest = float("inf") if surplus else 0.0
    for column in range(expected.shape[1]):
        gaps = _gaps(found[:answered, column], expected[:answered, column])
        differs |= gaps > tolerance
        largest = max(largest, float(gaps.max(initial=0.0)))
    return CheckResult(rows, int(differs.sum()) + surplus, largest, rows - answered, tolerance)


def _matrix(values: Any) -> npt.NDArray[Any]:
    """Rows by values of one row, whatever shape they came in."""
    array = values.to_numpy() if hasattr(values, "to_numpy") else np.asarray(values)
    return array.reshape(array.shape[0], -1) if array.ndim > 1 else array.reshape(-1, 1)


def _gaps(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Absolute differences of numbers; 0 or inf for everything else."""
    try:
        left, right = found.astype(np.float64), expected.astype(np.float64)
    except (TypeError, ValueError):
        same = [str(a) == str(b) for a, b in zip(found, expected, strict=True)]
        return np.where(same, 0.0, np.inf)
    with np.errstate(invalid="ignore"):
        gaps = np.abs(left - right)
    gaps[(left == right) | (np.isnan(left) & np.isnan(right))] = 0.0
    return np.where(np.isnan(gaps), np.inf, gaps)
