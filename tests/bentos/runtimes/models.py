"""Small real models of each kind that is converted, saved as MLflow saves them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.bentos.saved import save

FEATURES = ["a", "b", "c", "d", "e"]


def frame(rows: int = 400, seed: int = 0) -> pd.DataFrame:
    """Five columns of doubles around zero."""
    return pd.DataFrame(np.random.default_rng(seed).normal(size=(rows, 5)), columns=FEATURES)


def two(inputs: pd.DataFrame) -> Any:
    return (inputs["a"] + inputs["b"] * inputs["c"] > 0).astype(int).to_numpy()


def words(inputs: pd.DataFrame) -> Any:
    return np.array(["low", "middle", "high"])[np.digitize(inputs["a"] + inputs["b"], [-0.7, 0.7])]


def number(inputs: pd.DataFrame) -> Any:
    return (10 * inputs["a"] + inputs["b"] ** 2).to_numpy()


def _sklearn(make: Callable[[], Any], target: Callable[[pd.DataFrame], Any]) -> Callable[[], tuple[str, Any]]:
    return lambda: ("sklearn", make().fit(frame(), target(frame())))


def _logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=300)


def _scaled() -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), _logistic())


def _linear() -> Any:
    from sklearn.linear_model import LinearRegression

    return LinearRegression()


def _ensemble(name: str, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        from sklearn import ensemble

        return getattr(ensemble, name)(random_state=0, **options)

    return make


def _lightgbm() -> tuple[str, Any]:
    import lightgbm

    return "lightgbm", lightgbm.LGBMClassifier(n_estimators=30, verbose=-1, n_jobs=1).fit(frame(), words(frame()))


def _booster() -> tuple[str, Any]:
    import lightgbm

    data = lightgbm.Dataset(frame(), two(frame()))
    return "lightgbm", lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1}, data, 30)


def _xgboost() -> tuple[str, Any]:
    import xgboost

    return "xgboost", xgboost.XGBClassifier(n_estimators=30, n_jobs=1).fit(frame(), two(frame()))


def _xgboost_numbers() -> tuple[str, Any]:
    import xgboost

    return "xgboost", xgboost.XGBRegressor(n_estimators=30, n_jobs=1).fit(frame(), number(frame()))


KINDS: dict[str, Callable[[], tuple[str, Any]]] = {
    "logistic": _sklearn(_logistic, two),
    "logistic of words": _sklearn(_logistic, words),
    "logistic of truths": _sklearn(_logistic, lambda inputs: two(inputs) > 0),
    "scaled": _sklearn(_scaled, words),
    "linear": _sklearn(_linear, number),
    "forest": _sklearn(_ensemble("RandomForestClassifier", n_estimators=20), two),
    "forest of words": _sklearn(_ensemble("RandomForestClassifier", n_estimators=11, max_depth=5), words),
    "forest of numbers": _sklearn(_ensemble("RandomForestRegressor", n_estimators=10), number),
    "boosting": _sklearn(_ensemble("GradientBoostingClassifier", n_estimators=20), two),
    "histograms": _sklearn(_ensemble("HistGradientBoostingClassifier", max_iter=20), words),
    "histograms of numbers": _sklearn(_ensemble("HistGradientBoostingRegressor", max_iter=20), number),
    "two numbers": _sklearn(
        _ensemble("RandomForestRegressor", n_estimators=10), lambda inputs: inputs[["b", "a"]].to_numpy()
    ),
    "lightgbm": _lightgbm,
    "booster": _booster,
    "xgboost": _xgboost,
    "xgboost of numbers": _xgboost_numbers,
}


def saved(kind: str, folder: Path, **options: Any) -> Path:
    """The model of a kind in ``folder``, with an input example."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flavor, model = KINDS[kind]()
        inputs = frame(30, seed=3)
        given = {"serialization_format": "pickle"} if flavor == "sklearn" else {}
        return save(flavor, model, folder, inputs, model.predict(inputs), input_example=inputs, **{**given, **options})
