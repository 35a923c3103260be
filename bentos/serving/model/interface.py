"""What a loader gives: a Predictor, whose answers are Predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from bentos.serving.errors import PermanentError
from bentos.serving.inputs.rows import InputRows
from bentos.serving.inputs.signature import InputError

if TYPE_CHECKING:
    import pandas as pd

    Values: TypeAlias = np.ndarray | dict[str, np.ndarray] | pd.DataFrame


class LoadError(PermanentError):
    """A model that cannot be loaded; the message names the model's folder, the flavor and the cause."""


class PredictError(PermanentError):
    """The model's own code raised on inputs that fit its signature; the message carries what it said."""


class RefusedError(InputError):
    """The model's own code refused a missing, infinite or very large value, which fits its signature."""


@dataclass(frozen=True)
class Prediction:
    """A model's answer, with numbers equal to ``mlflow.pyfunc.load_model(folder).predict``.

    ``values`` is an array whose first dimension is rows, or named outputs: a dict of arrays, or a pandas DataFrame where
    the model itself answers one. ``table`` says that a dict's arrays are columns of one table, one value a row: MLflow
    answers a DataFrame there, so MLflow's JSON has records; without it they are tensors, and the JSON has a list by name,
    or a single value where the array has no dimension.
    ``probabilities`` is [rows x classes] and ``classes`` their labels, both None where the model has none, or was not asked.
    """

    values: Values
    probabilities: np.ndarray | None = None
    classes: tuple[Any, ...] | None = None
    table: bool = False

    @property
    def rows(self) -> int:
        """The number of rows answered."""
        if not isinstance(self.values, dict):
            return len(self.values)
        return next((len(array) for array in self.values.values() if array.ndim), 1)

    def outputs(self) -> dict[str, np.ndarray]:
        """The named outputs as arrays; a nameless answer is called ``prediction``."""
        if isinstance(self.values, dict):
            return {name: np.atleast_1d(array) for name, array in self.values.items()}
        if isinstance(self.values, np.ndarray):
            return {"prediction": self.values}
        return {str(name): self.values[name].to_numpy() for name in self.values.columns}

    def slice(self, start: int, stop: int) -> Prediction:
        """The answers to rows from ``start`` up to ``stop``: how a batch's answers go back to its requests."""
        values: Values
        if isinstance(self.values, dict):
            values = {name: array[start:stop] if array.ndim else array for name, array in self.values.items()}
        else:
            values = self.values[start:stop]
        probabilities = None if self.probabilities is None else self.probabilities[start:stop]
        return Prediction(values, probabilities, self.classes, self.table)


class Predictor(Protocol):
    """A loaded model. One predict at a time; what the model raises passes through unchanged."""

    def predict(self, data: InputRows, params: Mapping[str, Any], *, probabilities: bool = False) -> Prediction:
        """Answer ``data``, in the form this model takes: its frame, its array or its tensors."""
        ...
