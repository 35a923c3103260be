"""scikit-learn models, without mlflow: skops, cloudpickle or pickle."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bentos.serving.inputs.rows import InputRows
from bentos.serving.model.interface import LoadError, Prediction
from bentos.serving.model.loaders.results import add_code, normalise

BY_NAME = ("ColumnTransformer", "FeatureUnion", "FunctionTransformer")
"""Estimators of scikit-learn's own that may tell columns apart by their names."""


def load(folder: Path, mlmodel: Mapping[str, Any]) -> SklearnPredictor:
    """The predictor of a folder with flavor ``sklearn``; answers with the method that ``pyfunc_predict_fn`` named."""
    conf = mlmodel["flavors"]["sklearn"]
    pyfunc = mlmodel["flavors"].get("python_function", {})
    add_code(folder, conf)
    name = conf.get("pickled_model") or pyfunc.get("model_path") or "model.pkl"
    estimator = read_estimator(
        folder / name, conf.get("serialization_format", "pickle"), conf.get("skops_trusted_types")
    )
    method = pyfunc.get("predict_fn") or "predict"
    if not hasattr(estimator, method):
        raise LoadError(
            f"{type(estimator).__name__} in {folder} has no method {method!r}: log it with another predict_fn"
        )
    return SklearnPredictor(estimator, method, framed=not fitted_on_array(estimator))


def read_estimator(path: Path, serialization: str, trusted: list[str] | None) -> Any:
    """An estimator from its file. Running it runs the model's code; skops admits only ``trusted`` types beside its own.

    Raises LoadError for an unknown serialization; what the library raises passes through.
    """
    if serialization == "skops":
        from skops.io import load as load_skops

        return load_skops(path, trusted=trusted)
    if serialization not in ("pickle", "cloudpickle"):
        raise LoadError(f"{path}: unknown serialization {serialization!r}, expected skops, cloudpickle or pickle")
    with path.open("rb") as file:
        if serialization == "cloudpickle":
            import cloudpickle

            return cloudpickle.load(file)
        import pickle

        return pickle.load(file)  # noqa: S301 the version was vetted, and this is its own environment


def class_probabilities(estimator: Any, data: Any) -> tuple[np.ndarray | None, tuple[Any, ...] | None]:
    """Class probabilities [rows x classes] and the classes, or (None, None) where there are none, or many outputs."""
    if not hasattr(estimator, "predict_proba"):
        return None, None
    found = estimator.predict_proba(data)
    if not isinstance(found, np.ndarray) or found.ndim != 2:
        return None, None
    classes = getattr(estimator, "classes_", None)
    return found, None if classes is None else tuple(np.asarray(classes).tolist())


def fitted_on_array(estimator: Any) -> bool:
    """Whether an estimator of scikit-learn's own was fitted on an array, so that a frame would only make it warn.

    Any other class may select columns by name, fitted attributes or not.
    """
    own = type(estimator).__module__.partition(".")[0] == "sklearn"
    return own and hasattr(estimator, "n_features_in_") and not hasattr(estimator, "feature_names_in_")


def _nameless(estimator: Any) -> Any:
    """A shallow copy without the names of columns, of scikit-learn's own estimators and pipelines of them."""
    steps = getattr(estimator, "steps", None)
    kind = type(estimator)
    if kind.__module__.partition(".")[0] != "sklearn" or kind.__name__ in BY_NAME:
        raise LoadError(f"{kind.__name__} may select columns by name: it is given frames")
    copied = copy.copy(estimator)
    if steps is not None:
        copied.steps = [(name, part if isinstance(part, str) else _nameless(part)) for name, part in steps]
    vars(copied).pop("feature_names_in_", None)
    return copied


@dataclass(frozen=True)
class SklearnPredictor:
    """An estimator. It takes a frame, or an array if it was fitted on one and every column is a number; with ``by_row`` an
    array whose rows lie one after the other."""

    estimator: Any
    method: str
    framed: bool
    by_row: bool = False

    def predict(self, data: InputRows, params: Mapping[str, Any], *, probabilities: bool = False) -> Prediction:
        """Answer ``data``; params are ignored, as MLflow ignores them for scikit-learn."""
        form = self._form(data)
        values = normalise(getattr(self.estimator, self.method)(form))
        return Prediction(values, *class_probabilities(self.estimator, form)) if probabilities else Prediction(values)

    def on_array(self) -> SklearnPredictor:
        """This predictor over arrays: the estimator forgets the names of the columns that it was fitted on.

        Raises LoadError for an estimator that may select columns by name.
        """
        if not self.framed:
            return self
        return replace(self, estimator=_nameless(self.estimator), framed=False)

    def for_bulk(self) -> SklearnPredictor:
        """This predictor for many rows: trees walk them faster where the values of one row lie together."""
        return replace(self, by_row=True)

    def _form(self, data: InputRows) -> Any:
        if data.tensors is not None:
            return data.array() if len(data.tensors) == 1 and "" in data.tensors else data.tensors
        if self.framed or not data.numeric:
            return data.frame()
        return np.ascontiguousarray(data.array()) if self.by_row else data.array()
