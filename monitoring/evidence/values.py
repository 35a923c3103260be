"""Predictions as values to compare: classes or numbers, aligned by request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

    from monitoring.evidence.evidence import Evidence

Kind = Literal["class", "number"]

MOST_CLASSES = 50  # more distinct integers than this are numbers


def kind_of(*columns: pd.Series[Any]) -> Kind:
    """Whether these predictions are classes or numbers.

    Texts and booleans are classes. Integers are classes up to 50 distinct values. Floats are numbers, unless all of them
    are whole and there are at most 50 distinct ones: that is what integer classes become when some are missing.
    """
    values = [value for column in columns for value in column.dropna()]
    if any(isinstance(value, str | bool | np.bool_) or not _is_number(value) for value in values):
        return "class"
    numbers = np.asarray(values, dtype=np.float64)
    whole = bool(np.all(np.isfinite(numbers)) and np.all(numbers == np.floor(numbers)))
    return "class" if whole and np.unique(numbers).size <= MOST_CLASSES else "number"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating)


def joined(evidence: Evidence) -> pd.DataFrame:
    """The answer rows of mirrored requests that both arms answered.

    Only a mirror gives both arms' answers to the same request by chance alone: where both answered one request of a
    split, the candidate was late and the baseline was asked too.
    """
    copied = evidence.requests.loc[evidence.requests["mirrored"].astype(bool), "request_id"]
    return evidence.answers[evidence.answers["request_id"].isin(copied)].dropna(subset=["baseline", "candidate"])


def without_pairs(evidence: Evidence) -> bool:
    """Whether this window cannot have joined answers: a split in which nothing was mirrored."""
    return evidence.stage == "split" and not evidence.requests["mirrored"].astype(bool).any()


def numbers(column: pd.Series[Any]) -> npt.NDArray[np.float64]:
    """The column as floats; NaN where missing or not a number."""
    import pandas as pd

    return np.asarray(pd.to_numeric(column, errors="coerce"), dtype=np.float64)


def as_classes(column: pd.Series[Any]) -> npt.NDArray[np.str_]:
    """The column's classes as texts, so that 1, 1.0, "1", True and "true" are one class however they came."""
    return np.asarray([_class_text(value) for value in column], dtype=np.str_)


def _class_text(value: Any) -> str:
    text = str(value).strip()
    if text.lower() in ("true", "false"):
        return "1" if text.lower() == "true" else "0"
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if np.isfinite(number) and number == int(number) else text


def mean_by_request(frame: pd.DataFrame, values: npt.NDArray[np.float64], order: str) -> npt.NDArray[np.float64]:
    """Mean of *values* (one per row of *frame*) per request, in the order of the column *order*.

    The request is the unit of every test: rows sent together are not independent.
    """
    grouped = (
        frame.assign(_value=values).groupby("request_id", sort=False).agg(_value=("_value", "mean"), _at=(order, "min"))
    )
    return np.asarray(grouped.sort_values("_at", kind="stable")["_value"], dtype=np.float64)
