"""Rows that a conversion is tried with: drawn from the signature, at the model's thresholds, at its boundaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bentos.serving.inputs.plan import InputPlan
from bentos.serving.inputs.rows import InputRows
from bentos.serving.inputs.scalars import NUMBERS

if TYPE_CHECKING:
    from bentos.runtimes.trees import Split

LARGEST_CELLS = 6_000_000  # rows times columns of one group
THRESHOLDS = 9_000
RANDOM_ROWS = 6_000
SCALES = (1e-3, 1e0, 1e2, 1e4)
LARGEST_LONG = 2.0**62


@dataclass(frozen=True)
class Maker:
    """Makes coerced rows from matrices of doubles [rows x columns]; each column takes what its type can hold.

    ``kinds`` are MLflow's types of the columns, or numpy's of the only tensor.
    """

    plan: InputPlan
    kinds: tuple[str, ...]

    @staticmethod
    def of(plan: InputPlan) -> Maker | None:
        """The maker for a plan whose inputs are all columns of numbers, or one nameless matrix; else None."""
        if plan.signature.params:
            return None
        if plan.tensors:
            only = plan.tensors[0]
            known = only.dtype in ("float32", "float64", "int32", "int64")
            if len(plan.tensors) > 1 or only.name or len(only.shape) != 2 or only.shape[1] < 1 or not known:
                return None
            return Maker(plan, (only.dtype,) * only.shape[1])
        kinds = tuple(column.type for column in plan.columns)
        truths = (column.required for column in plan.columns if column.type == "boolean")
        return Maker(plan, kinds) if set(kinds) <= {*NUMBERS, "boolean"} and all(truths) else None

    @property
    def width(self) -> int:
        """The number of columns."""
        return len(self.kinds)

    def rows(self, matrix: np.ndarray) -> InputRows:
        """``matrix`` as coerced rows. Raises InputError where a value does not fit its column."""
        if self.plan.tensors:
            return self.plan.coerce({"": _fitted(matrix, self.kinds[0])})
        if self.plan.uniform == np.float64:
            return self.plan.whole(np.ascontiguousarray(matrix))
        columns = {
            key: _fitted(matrix[:, i], kind)
            for i, (key, kind) in enumerate(zip(self.plan.keys, self.kinds, strict=True))
        }
        return self.plan.coerce(columns)

    def takes(self, column: int, value: float) -> bool:
        """Whether ``column`` can hold ``value``, which may be NaN, infinite or very large."""
        if self.kinds[column] in ("boolean", "int32", "int64"):
            return False
        if self.kinds[column] in ("integer", "long"):
            return np.isnan(value) and not self.plan.columns[column].required
        return self.kinds[column] != "float" or not 3.4e38 < abs(value) < np.inf


def _fitted(values: np.ndarray, kind: str) -> np.ndarray:
    if kind == "boolean":
        return np.asarray(values > 0)
    if kind in ("integer", "int32"):
        fitted: np.ndarray = np.clip(np.rint(values), -(2.0**31), 2.0**31 - 1)
        return fitted if np.isnan(values).any() else fitted.astype(np.int32)
    if kind in ("long", "int64"):
        fitted = np.clip(np.rint(values), -LARGEST_LONG, LARGEST_LONG)
        return fitted if np.isnan(values).any() else fitted.astype(np.int64)
    with np.errstate(over="ignore"):
        return values.astype(np.float32) if kind in ("float", "float32") else values


@dataclass(frozen=True)
class Spread:
    """Where the model's inputs lie: the middle and the width of each column [columns]."""

    middle: np.ndarray
    width: np.ndarray

    @staticmethod
    def find(columns: int, seen: np.ndarray | None, thresholds: np.ndarray, estimator: Any) -> Spread:
        """From the rows ``seen`` (reference or example), the ``thresholds`` of trees, or a scaler's fitted numbers."""
        middle, width = np.zeros(columns), np.ones(columns)
        first = next(iter(getattr(estimator, "steps", [("", estimator)])))[1]
        if getattr(first, "mean_", None) is not None and np.shape(getattr(first, "scale_", 0.0)) == (columns,):
            middle, width = np.asarray(first.mean_, dtype=float), np.asarray(first.scale_, dtype=float)
        if seen is not None and len(seen):
            finite = np.where(np.isfinite(seen), seen, 0.0)
            middle = finite.mean(axis=0)
            width = np.maximum(finite.std(axis=0), np.abs(middle) * 0.1)
        for column in np.unique(thresholds[:, 0]).astype(int):
            own = thresholds[thresholds[:, 0] == column, 1]
            middle[column], width[column] = np.median(own), max(own.std(), abs(np.median(own)) * 0.1)
        return Spread(middle, np.where(width > 0, width, 1.0))


def at_random(spread: Spread, rng: np.random.Generator, rows: int = RANDOM_ROWS) -> np.ndarray:
    """[at least ``rows`` x columns]: around the spread, near its middle, at several scales, and at whole numbers."""
    columns = len(spread.middle)
    part = max(min(rows, LARGEST_CELLS // columns) // 4, 1) + 1
    around = spread.middle + spread.width * rng.normal(size=(part, columns))
    near = spread.middle + 0.05 * spread.width * rng.normal(size=(part, columns))
    scaled = rng.choice(SCALES, size=(part, 1)) * rng.normal(size=(part, columns))
    whole = np.rint(spread.middle + spread.width * rng.normal(size=(part, columns)))
    return np.concatenate([around, near, scaled, whole, np.zeros((1, columns))])


def most_splits(columns: int) -> int:
    """How many splits are tried of a model of so many columns."""
    return min(THRESHOLDS, max(LARGEST_CELLS // (6 * columns), 1))


def at_splits(splits: Sequence[Split], spread: Spread, rng: np.random.Generator) -> np.ndarray:
    """[6 n x columns]: for each split a random row that gets there, whose column is at the threshold, or next to it on either
    side, as a double and as a float."""
    base = spread.middle + spread.width * rng.normal(size=(len(splits), len(spread.middle)))
    for row, split in zip(base, splits, strict=True):
        for column, (above, up_to) in split.way.items():
            if not above < row[column] <= up_to:
                row[column] = _between(above, up_to, spread.width[column], rng)
    value = np.array([split.threshold for split in splits])
    with np.errstate(over="ignore"):
        single = value.astype(np.float32)
    up, down = np.float32(np.inf), np.float32(-np.inf)
    values = [
        value, np.nextafter(value, -np.inf), np.nextafter(value, np.inf),
        single, np.nextafter(single, down), np.nextafter(single, up),
    ]  # fmt: skip
    kept = np.tile(base, (6, 1))
    kept[np.arange(len(kept)), np.tile([split.column for split in splits], 6)] = np.concatenate(values)
    return np.where(np.isfinite(kept), kept, 0.0)


def _between(above: float, up_to: float, width: float, rng: np.random.Generator) -> float:
    """A value in (above, up_to], either of which may be infinite."""
    if np.isinf(above):
        return up_to - width * float(rng.random())
    if np.isinf(up_to):
        return above + width * (1e-3 + float(rng.random()))
    return min(above + (up_to - above) * (0.05 + 0.9 * float(rng.random())), up_to)
