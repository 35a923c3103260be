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
    """Arrays and data frames as they are; a Series, list or scalar as an array; a mapping as a dict of arrays."""
    if isinstance(answer, np.ndarray):
        return answer if answer.ndim else answer.reshape(1)
    if hasattr(answer, "columns") and hasattr(answer, "iloc"):
        return answer  # type: ignore[no-any-return] # a pandas DataFrame, found without importing pandas
    if isinstance(answer, Mapping):
        return {str(name): np.atleast_1d(np.asarray(value)) for name, value in answer.items()}
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


def _array(items: list[Any]) -> np.ndarray:
    if all(isinstance(item, (bool, int, float, np.generic)) for item in items):
        return np.asarray(items)
    return objects(items)
