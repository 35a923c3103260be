"""The models that are measured: trained here on seeded synthetic rows, saved as their users save them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

COLUMNS = 20
TRAINING_ROWS = 5_000
LIBRARIES = {"lightgbm": ("lightgbm",), "xgboost": ("xgboost-cpu",)}
NAMES = [f"c{column}" for column in range(COLUMNS)]


@dataclass(frozen=True)
class BenchModel:
    """One trained model below *folder*: ``mlflow/`` as MLflow saved it, and for peers that take no MLflow model
    ``model.joblib``, ``model.onnx`` or LightGBM's ``model.lgb``."""

    key: str
    folder: Path

    @property
    def mlflow(self) -> Path:
        """The artifact folder, MLmodel at its root."""
        return self.folder / "mlflow"

    @property
    def is_tensor(self) -> bool:
        """Whether its signature is one tensor rather than named columns."""
        return self.key.endswith("_onnx")

    @cached_property
    def rows(self) -> np.ndarray:
        """100 rows of float64 that it was not trained on, [100 x 20]."""
        return synthetic(100, seed=1)[0].to_numpy()

    @cached_property
    def answers(self) -> list[int]:
        """The classes of *rows* by the estimator itself, in this process."""
        return [int(value) for value in json.loads((self.folder / "answers.json").read_text())]

    def file(self) -> Path:
        """The file that peers without MLflow load."""
        return self.folder / ("model.onnx" if self.is_tensor else "model.joblib")


def synthetic(rows: int, seed: int) -> tuple[pd.DataFrame, pd.Series]:
    """Standard normal columns and a class that depends on all of them, not linearly, with a tenth of the labels wrong."""
    import numpy as np
    import pandas as pd

    generator = np.random.default_rng(seed)
    frame = pd.DataFrame(generator.normal(size=(rows, COLUMNS)), columns=NAMES)
    weights = np.random.default_rng(7).normal(size=COLUMNS)  # the same for every seed
    score = frame.to_numpy() @ weights + frame["c0"] * frame["c1"] + np.sin(3 * frame["c2"])
    wrong = generator.random(rows) < 0.1
    return frame, ((score > 0) ^ wrong).astype(int)


def estimators() -> dict[str, Callable[[], Any]]:
    """Model key → maker of the untrained estimator. What makes no sense without a library is made when it is asked for."""
    return {
        "logistic_regression": _logistic_regression,
        "random_forest": _random_forest,
        "hist_gradient_boosting": _hist_gradient_boosting,
        "lightgbm": _lightgbm,
        "xgboost": _xgboost,
        "logistic_regression_onnx": _logistic_regression,
        "hist_gradient_boosting_native": _behind_a_function,
    }


def trained(key: str, folder: Path) -> BenchModel:
    """Trains and saves the model *key* below *folder*. Raises KeyError for an unknown one."""
    import joblib

    estimator = estimators()[key]()
    frame, classes = synthetic(TRAINING_ROWS, seed=0)
    model = BenchModel(key, folder)
    folder.mkdir(parents=True)
    if model.is_tensor:
        answers = _save_onnx(estimator.fit(frame.to_numpy("float32"), classes), model)
    else:
        estimator.fit(frame, classes)
        _save(estimator, frame, model)
        joblib.dump(estimator, model.file())
        answers = estimator.predict(_frame(model))
    (folder / "answers.json").write_text(json.dumps([int(value) for value in answers]))
    return model


def _save(estimator: Any, frame: pd.DataFrame, model: BenchModel) -> None:
    import mlflow.lightgbm
    import mlflow.sklearn
    import mlflow.xgboost
    import skops.io
    from mlflow.models import infer_signature

    described = {
        "signature": infer_signature(frame, estimator.predict(frame)),
        "input_example": frame.head(5),
        "pip_requirements": _pins("scikit-learn", "skops", *LIBRARIES.get(model.key, ())),
    }
    if model.key == "lightgbm":
        mlflow.lightgbm.save_model(estimator, model.mlflow, **described)
        estimator.booster_.save_model(str(model.folder / "model.lgb"))
    elif model.key == "xgboost":
        mlflow.xgboost.save_model(estimator, model.mlflow, **described)
    else:
        trusted = skops.io.get_untrusted_types(data=skops.io.dumps(estimator))
        mlflow.sklearn.save_model(estimator, model.mlflow, skops_trusted_types=trusted, **described)


def _save_onnx(estimator: Any, model: BenchModel) -> Any:
    """The trained estimator through skl2onnx; returns the answers of the ONNX model, in this process."""
    import mlflow.onnx
    import onnxruntime
    from mlflow.models import infer_signature
    from skl2onnx import to_onnx

    values = model.rows.astype("float32")
    converted = to_onnx(estimator, values[:1], options={"zipmap": False})
    model.file().write_bytes(converted.SerializeToString())
    label, probabilities = onnxruntime.InferenceSession(str(model.file())).run(None, {"X": values})
    mlflow.onnx.save_model(
        converted,
        model.mlflow,
        signature=infer_signature(values, {"label": label, "probabilities": probabilities}),
        input_example=values[:5],
        pip_requirements=_pins("onnx", "onnxruntime"),
    )
    return label


def _pins(*packages: str) -> list[str]:
    """Pins of the installed versions: what MLflow would infer, without the ten seconds that it takes to."""
    return [f"{package}=={version(package)}" for package in ("mlflow", "numpy", "pandas", *packages)]


def _frame(model: BenchModel) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(model.rows, columns=NAMES)


def _logistic_regression() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression()


def _random_forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(100, random_state=0)


def _hist_gradient_boosting() -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(random_state=0)


def _behind_a_function() -> Any:
    """Boosting behind a NumPy function, as for columns with heavy tails: no converter takes the function."""
    import numpy as np
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    return make_pipeline(FunctionTransformer(np.arcsinh), _hist_gradient_boosting())


def _lightgbm() -> Any:
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=100, random_state=0, n_jobs=1, verbose=-1)


def _xgboost() -> Any:
    from xgboost import XGBClassifier

    return XGBClassifier(n_estimators=100, random_state=0, n_jobs=1)
