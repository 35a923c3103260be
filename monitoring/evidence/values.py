"""Predictions as values to compare: classes or numbers, aligned by request."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

    from monitoring.evidence.evidence import Evidence

Kind = Literal["class", "number"]

MOST_CLASSES = 50  # more distinct integers than this are numbers
LABELS = ("label", "output_label", "prediction")
"""The names that skl2onnx, onnxmltools and people give the output that says the class or the number itself."""


def compared(answer: Any, output: str | None) -> Any:
    """Of one row's *answer* what is compared and labelled: the *output* of that name; without, one of LABELS, or the whole.

    A record may be JSON text, as V2 has it. An answer without names is itself. Raises KeyError with the names that there are.
    """
    record = _parsed(answer)
    if not isinstance(record, dict):
        return answer
    if output is not None:
        if output not in record:
            raise KeyError(", ".join(map(str, record)))
        return record[output]
    return next((record[name] for name in LABELS if name in record), answer)


def kind_of(*columns: pd.Series[Any]) -> Kind:
    """Whether these predictions are classes or numbers.

    Texts and booleans are classes. Integers are classes up to 50 distinct values. Floats are numbers, unless all of them
    are whole and there are at most 50 distinct ones: that is what integer classes become when some are missing. Answers of
    several numbers are what these are.
    """
    found = _by_output(*columns)
    values = [value for column in columns for value in column.dropna()]
    if found is not None:
        values = [value for arrays in found.values() for array in arrays for value in array[~np.isnan(array)]]
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


def by_output(*columns: pd.Series[Any]) -> dict[str, tuple[npt.NDArray[np.float64], ...]]:
    """The numbers of each of *columns* by output: one, named "", where answers are single numbers.

    Several where each answer is JSON text, or lists and records, of numbers under the same names in all columns.
    """
    found = _by_output(*columns)
    return found if found is not None else {"": tuple(numbers(column) for column in columns)}


def several(*columns: pd.Series[Any]) -> bool:
    """Whether some values are of several outputs: lists or records, or their JSON text."""
    return any(isinstance(_parsed(value), list | dict) for column in columns for value in column)


def _by_output(*columns: pd.Series[Any]) -> dict[str, tuple[npt.NDArray[np.float64], ...]] | None:
    """As ``by_output``; None where no answer has several outputs, or where they are not all numbers under the same names."""
    if not several(*columns):
        return None
    rows = [[_leaves(_parsed(value), "") for value in column] for column in columns]
    names = next(list(leaves) for column in rows for leaves in column)
    if any(list(leaves) != names or not all(map(_numeric, leaves.values())) for column in rows for leaves in column):
        return None
    tables = [np.array([list(leaves.values()) for leaves in column], dtype=np.float64) for column in rows]
    return {name: tuple(table[:, at] for table in tables) for at, name in enumerate(names)}


def _parsed(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _leaves(value: Any, name: str) -> dict[str, Any]:
    """The single values within *value*, by their place: ``mean``, ``scores[1]``, ``[0]``."""
    if isinstance(value, dict):
        parts = [_leaves(value[key], f"{name}.{key}" if name else str(key)) for key in sorted(value)]
    elif isinstance(value, list):
        parts = [_leaves(item, f"{name}[{at}]") for at, item in enumerate(value)]
    else:
        return {name: value}
    return {place: leaf for part in parts for place, leaf in part.items()}


def _numeric(value: Any) -> bool:
    return value is None or (_is_number(value) and not isinstance(value, bool))


def as_classes(column: pd.Series[Any]) -> npt.NDArray[np.str_]:
    """The column's classes as texts, so that 1, 1.0, "1", True and "true" are one class however they came."""
    return np.asarray([_class_text(value) for value in column], dtype=np.str_)


def _class_text(value: Any) -> str:
    if isinstance(value := _parsed(value), list | dict):
        return json.dumps({name: _class_text(leaf) for name, leaf in _leaves(value, "").items()})
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
