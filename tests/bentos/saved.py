"""Small real models, saved as MLflow saves them, for the tests of loaders, runner and child."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

IGNORED = (
    # mlflow on import: an "any" type hint among its own agent classes
    "ignore:.*type hint.*:UserWarning",
    # mlflow.sklearn: advice against pickle, which these tests want
    "ignore:.*[Pp]ickle.*:UserWarning",
    # mlflow: integer columns cannot hold nulls, in its signature inference
    "ignore:.*Integer columns:UserWarning",
    # skl2onnx, onnx and protobuf use names that numpy and Python have deprecated
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
)


def numbers(rows: int = 60, seed: int = 0) -> pd.DataFrame:
    """Three columns of doubles in [0, 1)."""
    return pd.DataFrame(np.random.default_rng(seed).random((rows, 3)), columns=["a", "b", "c"])


def target(frame: pd.DataFrame) -> Any:
    """A class of 0 or 1 that the numbers decide."""
    return (frame["a"] + frame["b"] > 1).astype(int).to_numpy()


def save(kind: str, model: Any, folder: Path, inputs: Any, outputs: Any, **options: Any) -> Path:
    """Save ``model`` with ``mlflow.<kind>.save_model`` and the signature inferred from inputs and outputs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import importlib

        from mlflow.models import infer_signature

        module = importlib.import_module(f"mlflow.{kind}")
        options = {
            **({} if "signature" in options else {"signature": infer_signature(inputs, outputs)}),
            "pip_requirements": ["numpy"],
            **options,
        }
        name = {
            "statsmodels": "statsmodels_model",
            "sklearn": "sk_model",
            "onnx": "onnx_model",
            "xgboost": "xgb_model",
            "lightgbm": "lgb_model",
        }
        argument = {} if model is None else {name.get(kind, f"{kind}_model"): model}
        module.save_model(**argument, path=str(folder), **options)
    return folder


def by_mlflow(folder: Path, inputs: Any, params: dict[str, Any] | None = None) -> Any:
    """What MLflow itself answers: the numbers ours must equal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.pyfunc

        return mlflow.pyfunc.load_model(str(folder)).predict(inputs, params=params)


def logistic(folder: Path, **options: Any) -> Path:
    """A logistic regression over ``numbers``, fitted on a frame, with an input example."""
    from sklearn.linear_model import LogisticRegression

    frame = numbers()
    model = LogisticRegression().fit(frame, target(frame))
    return save("sklearn", model, folder, frame, model.predict(frame), input_example=frame.head(2), **options)
