"""Whatever a pyfunc answers, as the values of a Prediction."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bentos.serving.inputs.scalars import objects

if TYPE_CHECKING:
    from bentos.serving.model.interface import Values


def normalise(answer: Any) -> Values:
    """Arrays and data frames as they are; a Series, list or scalar as an array; a mapping as a dict of arrays.

    A single value beside the arrays of a mapping has no dimension: it is said once, not once a row.
    """
    if isinstance(answer, np.ndarray):
        return answer if answer.ndim else answer.reshape(1)
    if hasattr(answer, "columns") and hasattr(answer, "iloc"):
        return answer  # type: ignore[no-any-return] # a pandas DataFrame, found without importing pandas
    if isinstance(answer, Mapping):
        arrays = {str(name): _output(value) for name, value in answer.items()}
        rows = any(array.ndim for array in arrays.values())
        return arrays if rows else {name: array.reshape(1) for name, array in arrays.items()}
    if hasattr(answer, "to_numpy"):
        return np.asarray(answer.to_numpy())
    if hasattr(answer, "toarray"):
        return np.asarray(answer.toarray())
    if isinstance(answer, (list, tuple)):
        return _array(list(answer))
    return _array([answer])


def add_code(folder: Path, conf: Mapping[str, Any]) -> None:
    """Make the code logged beside the model (``code_paths``) importable, as MLflow does. Once per folder."""
    code = conf.get("code")
    if code and (path := str(folder / str(code))) not in sys.path:
        sys.path.insert(0, path)


def _output(value: Any) -> np.ndarray:
    """One output of several, without a dimension where it is a single value."""
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    if hasattr(value, "toarray"):
        value = value.toarray()
    if isinstance(value, np.ndarray):
        return value
    return _array(list(value)) if isinstance(value, (list, tuple)) else _array([value]).reshape(())


def _array(items: list[Any]) -> np.ndarray:
    """Numbers, and lists of as many of them, as an array of numbers; anything else as objects, one a row."""
    if not all(isinstance(item, (bool, int, float, np.generic, list, tuple, np.ndarray)) for item in items):
        return objects(items)
    try:
        found = np.asarray(items)
    except ValueError:  # lists of different lengths
        return objects(items)
    return found if found.dtype.kind in "biufcmM" else objects(items)
