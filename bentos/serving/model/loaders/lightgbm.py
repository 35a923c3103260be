"""LightGBM models, without mlflow: native boosters and scikit-learn estimators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bentos.serving.inputs.rows import InputRows
from bentos.serving.model.interface import LoadError, Prediction
from bentos.serving.model.loaders.results import add_code, normalise
from bentos.serving.model.loaders.sklearn import class_probabilities, read_estimator


def load(folder: Path, mlmodel: Mapping[str, Any]) -> LightgbmPredictor:
    """The predictor of a folder with flavor ``lightgbm``."""
    conf = mlmodel["flavors"]["lightgbm"]
    add_code(folder, conf)
    path = folder / conf["data"]
    if conf.get("model_class", "lightgbm.basic.Booster") == "lightgbm.basic.Booster":
        import lightgbm

        return LightgbmPredictor(lightgbm.Booster(model_file=str(path)))
    serialization = conf.get("serialization_format", "cloudpickle")
    return LightgbmPredictor(read_estimator(path, serialization, conf.get("skops_trusted_types")))


@dataclass(frozen=True)
class LightgbmPredictor:
    """A Booster or an LGBMModel, given a frame; or a Booster, given an array of numbers."""

    model: Any
    framed: bool = True

    def predict(self, data: InputRows, params: Mapping[str, Any], *, probabilities: bool = False) -> Prediction:
        """Answer ``data``; params are ignored, as MLflow ignores them for LightGBM."""
        form = data.frame() if data.tensors is None and (self.framed or not data.numeric) else data.array()
        values = normalise(self.model.predict(form))
        return Prediction(values, *class_probabilities(self.model, form)) if probabilities else Prediction(values)

    def on_array(self) -> LightgbmPredictor:
        """This predictor over arrays. Raises LoadError for an LGBMModel, which warns of arrays."""
        if hasattr(self.model, "booster_") or hasattr(self.model, "_Booster"):
            raise LoadError(f"{type(self.model).__name__} wants the names of its columns: it is given frames")
        return replace(self, framed=False)
