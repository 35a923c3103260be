"""Any other flavor, through mlflow.pyfunc. The one loader that imports mlflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bentos.serving.inputs.rows import InputRows
from bentos.serving.model.interface import Prediction
from bentos.serving.model.loaders.results import normalise


def load(folder: Path, mlmodel: Mapping[str, Any]) -> PyfuncPredictor:
    """The predictor of a folder with flavor ``python_function``."""
    from mlflow.pyfunc import load_model

    return PyfuncPredictor(load_model(str(folder)), hasparams=bool((mlmodel.get("signature") or {}).get("params")))


@dataclass(frozen=True)
class PyfuncPredictor:
    """An MLflow PyFuncModel, given a frame without the optional columns that were not sent, or tensors."""

    model: Any
    hasparams: bool

    def predict(self, data: InputRows, params: Mapping[str, Any], *, probabilities: bool = False) -> Prediction:
        """Answer ``data`` with ``params``. MLflow knows of no probabilities beside an answer: there are none."""
        form: Any
        form = data.frame(absent=False) if data.tensors is None else data.tensors.get("", data.tensors)
        answer = self.model.predict(form, params=dict(params)) if self.hasparams else self.model.predict(form)
        return Prediction(normalise(answer))
