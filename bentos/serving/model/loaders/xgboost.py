"""XGBoost models, without mlflow: native boosters and scikit-learn estimators."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from bentos.serving.inputs.rows import InputRows
from bentos.serving.model.interface import LoadError, Prediction
from bentos.serving.model.loaders.results import add_code, normalise
from bentos.serving.model.loaders.sklearn import class_probabilities


def load(folder: Path, mlmodel: Mapping[str, Any]) -> XgboostPredictor:
    """The predictor of a folder with flavor ``xgboost``. Raises LoadError if its class is not one of xgboost's own."""
    conf = mlmodel["flavors"]["xgboost"]
    add_code(folder, conf)
    module, _, name = conf.get("model_class", "xgboost.core.Booster").rpartition(".")
    if module.partition(".")[0] != "xgboost":
        raise LoadError(f"{folder}: model_class {module}.{name} is not xgboost's: log the model with mlflow.pyfunc")
    model = getattr(import_module(module), name)()
    model.load_model(str(folder / conf["data"]))
    import xgboost

    return XgboostPredictor(model, booster=isinstance(model, xgboost.Booster))


@dataclass(frozen=True)
class XgboostPredictor:
    """A Booster (through a DMatrix) or an XGBModel, both with their feature names checked, as MLflow calls them."""

    model: Any
    booster: bool

    def predict(self, data: InputRows, params: Mapping[str, Any], *, probabilities: bool = False) -> Prediction:
        """Answer ``data``; of the params those that the model's ``predict`` takes are passed on."""
        form = data.frame() if data.tensors is None else data.array()
        known = inspect.signature(self.model.predict).parameters
        passed = {name: value for name, value in params.items() if name in known}
        if self.booster:
            import xgboost

            return Prediction(normalise(self.model.predict(xgboost.DMatrix(form), validate_features=True, **passed)))
        values = normalise(self.model.predict(form, validate_features=True, **passed))
        return Prediction(values, *class_probabilities(self.model, form)) if probabilities else Prediction(values)
