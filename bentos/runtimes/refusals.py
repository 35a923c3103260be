"""Refusals: which values the native model refuses, in which words, so that a conversion refuses the same ones."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bentos.runtimes.candidate import NotConvertedError
from bentos.runtimes.equivalence import Group, group
from bentos.runtimes.rows import Maker
from bentos.serving.inputs.rows import InputRows
from bentos.serving.inputs.signature import InputError
from bentos.serving.model.profile import Refused
from bentos.serving.model.runner import ModelRunner

LARGEST = float(np.finfo(np.float64).max)
ODD = (np.nan, np.inf, -np.inf, 1e39, -1e39, 1e300, -1e300, LARGEST, -LARGEST, 1e-320)
"""Values that a column of doubles can hold and models rarely see."""

PROBED = 48  # columns that are probed one by one
BISECTED = 128  # columns whose largest magnitude is looked for, at most


@dataclass(frozen=True)
class Refusals:
    """What the native model refuses: NaN, infinities, and in each column magnitudes above its limit."""

    nan: Refused | None
    inf: Refused | None
    limits: tuple[float, ...]


def find(native: ModelRunner, maker: Maker, row: np.ndarray, groups: Sequence[Group], *, single: bool) -> Refusals:
    """What the native model refuses of the ``odd`` groups, made from ``row``. ``single``: a conversion is fed floats.

    Raises NotConvertedError where it cannot be said by a rule.
    """
    seen: dict[str, Refused] = {}
    huge = False
    for value in ODD:
        kind = "nan" if value != value else "inf"
        for one in groups:
            if one.name.endswith(f" {value!r}") and isinstance(one.native, str):
                if kind == "inf" and np.isfinite(value):
                    huge |= not single or abs(value) < 1e39
                seen.setdefault(kind, _raised(native, one))
    limits = _limits(native, maker, row) if huge and seen.get("inf") else ()
    return Refusals(seen.get("nan"), seen.get("inf"), limits)


def odd(native: ModelRunner, maker: Maker, row: np.ndarray, rng: np.random.Generator) -> list[Group]:
    """What the native model answers to ODD values in the usual ``row`` [columns]: in one column, and in all of them but for
    the largest doubles, whose sum is no number in any order."""
    columns = np.arange(maker.width)
    if maker.width > PROBED:
        columns = np.sort(rng.choice(columns, PROBED, replace=False))
    found = []
    for value in ODD:
        able = [column for column in range(maker.width) if maker.takes(column, value)]
        for chosen in [[c] for c in columns if c in able] + ([able] if len(able) > 1 and abs(value) != LARGEST else []):
            name = f"a row with {'every column' if len(chosen) > 1 else f'column {chosen[0]}'} at {value!r}"
            try:
                found.append(group(name, native, _with(maker, row, chosen, value)))
            except InputError:  # the signature itself refuses it, whatever the runtime
                continue
    return found


def _raised(native: ModelRunner, one: Group) -> Refused:
    """The error of the model's library behind a refusal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            native.predictor.predict(one.data, {}, probabilities=False)
        except Exception as error:
            return Refused(type(error).__name__, str(error))
    raise NotConvertedError(f"it refuses {one.name} only sometimes, or only when probabilities are asked for")


def _limits(native: ModelRunner, maker: Maker, row: np.ndarray) -> tuple[float, ...]:
    """The largest magnitude of each column that is not refused: a scaler may turn large numbers into infinities.

    Found by halving between doubles, the larger sign's; the gate then tries both sides of it.
    """
    if maker.width > BISECTED:
        raise NotConvertedError(f"it refuses large numbers, and {maker.width} columns are too many to find where")
    limits = []
    for column in range(maker.width):
        if not maker.takes(column, LARGEST) or not any(
            _refuses(native, maker, row, column, sign * LARGEST) for sign in (1, -1)
        ):
            limits.append(LARGEST)
            continue
        low, high = _order(1.0), _order(LARGEST)
        while high - low > 1:
            middle = (low + high) // 2
            value = _double(middle)
            if _refuses(native, maker, row, column, value) or _refuses(native, maker, row, column, -value):
                high = middle
            else:
                low = middle
        limits.append(_double(low))
    return tuple(limits)


def _refuses(native: ModelRunner, maker: Maker, row: np.ndarray, column: int, value: float) -> bool:
    return isinstance(group("", native, _with(maker, row, column, value)).native, str)


def _with(maker: Maker, row: np.ndarray, columns: int | Sequence[Any], value: float) -> InputRows:
    """``row`` with ``value`` in ``columns``. Raises InputError where the signature itself refuses it."""
    matrix = np.array([row])
    matrix[0, columns] = value
    return maker.rows(matrix)


def at_limits(native: ModelRunner, maker: Maker, row: np.ndarray, limits: tuple[float, ...]) -> list[Group]:
    """Rows on both sides of each limit."""
    found = []
    for column, limit in enumerate(limits):
        if limit >= LARGEST:
            continue
        above = _double(_order(limit) + 1)
        for value in (limit, -limit, above, -above):
            if maker.takes(column, value):
                data = _with(maker, row, column, value)
                found.append(group(f"a row with column {column} at {value!r}", native, data))
    return found


def _order(value: float) -> int:
    return int(np.float64(value).view(np.int64))


def _double(order: int) -> float:
    return float(np.int64(order).view(np.float64))
