"""What models' authors do: train, log with a signature and an input example, register. ``python authors.py FOLDER``.

Runs in a process of its own against the MLflow that MLFLOW_TRACKING_URI names. Beside each registered model it leaves the
rows to score and what the author's own object answers to them, before any of our code has seen the model:
``FOLDER/<model>/rows.parquet`` and ``expected.json``.
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROWS = 24


def main(folder: Path) -> None:
    """Registers every model."""
    warnings.simplefilter("ignore")
    import mlflow

    mlflow.set_experiment("authors")
    for author in AUTHORS:
        name = author.__name__.strip("_").replace("_", "-")
        try:
            author(name, folder / name)
        except OSError as error:
            if "libgomp" not in str(error):
                raise
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / "skip").write_text(f"{name} needs libgomp.so.1 of the system (Debian: libgomp1): {error}")


def numbers(rows: int = 80) -> pd.DataFrame:
    """Three columns of doubles."""
    return pd.DataFrame(np.random.default_rng(7).normal(size=(rows, 3)), columns=["a", "b", "c"])


def above(frame: pd.DataFrame) -> Any:
    """A class that the numbers decide."""
    return (frame["a"] + frame["b"] * frame["c"] > 0).astype(int)


def log(
    flavor: str, name: str, folder: Path, model: Any, inputs: Any, predict: Callable[[Any], Any], **more: Any
) -> None:
    """Logs and registers *model*, and leaves rows and the author's own answers to them."""
    from mlflow.models import infer_signature

    module = importlib.import_module(f"mlflow.{flavor}")
    rows = inputs[:ROWS]
    answers = np.asarray(predict(rows))
    options = {"signature": infer_signature(inputs, predict(inputs)), "input_example": inputs[:5], **more}
    argument = {"pyfunc": "python_model", "sklearn": "sk_model"}.get(flavor, f"{flavor}_model")
    argument = {"onnx": "onnx_model", "xgboost": "xgb_model", "lightgbm": "lgb_model"}.get(flavor, argument)
    module.log_model(**{argument: model}, name="model", registered_model_name=name, **options)
    folder.mkdir(parents=True)
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame({"input": [row.tolist() for row in rows]})
    frame.to_parquet(folder / "rows.parquet", index=False)
    kept = {"dtype": answers.dtype.name, "answers": answers.tolist()}
    (folder / "expected.json").write_text(json.dumps(kept))


def skops(name: str, folder: Path) -> None:
    """MLflow's default for scikit-learn, its inferred requirements included."""
    from sklearn.linear_model import LogisticRegression

    frame = numbers()
    model = LogisticRegression().fit(frame, above(frame))
    log("sklearn", name, folder, model, frame, model.predict)


def pickled(name: str, folder: Path) -> None:
    """A forest fitted on an array, as a pickle."""
    from sklearn.ensemble import RandomForestRegressor

    frame = numbers()
    model = RandomForestRegressor(8, random_state=0).fit(frame.to_numpy(), frame["a"] - frame["c"])
    pins = ["scikit-learn", "numpy"]
    log("sklearn", name, folder, model, frame, lambda rows: model.predict(rows.to_numpy()), serialization_format="pickle", pip_requirements=pins)  # fmt: skip


def cloudpickled(name: str, folder: Path) -> None:
    """A pipeline with a function of its own, which only cloudpickle can keep."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    frame = numbers()
    model = make_pipeline(FunctionTransformer(lambda rows: rows**2 + 1), Ridge()).fit(frame, frame["a"] * 3)
    pins = ["scikit-learn", "numpy", "pandas", "cloudpickle"]
    log("sklearn", name, folder, model, frame, model.predict, serialization_format="cloudpickle", pip_requirements=pins)


def strings(name: str, folder: Path) -> None:
    """Columns of text, whole numbers and numbers; the answers are texts."""
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    random = np.random.default_rng(3)
    cities = random.choice(["Ulm", "Köln", "'s-Hertogenbosch", "東京"], 80)
    frame = pd.DataFrame({"city": cities, "rooms": random.integers(1, 6, 80), "size": random.normal(70, 20, 80)})
    price = np.where(frame["size"] * frame["rooms"] > 210, "high", np.where(frame["city"] == "Ulm", "low", "fair"))
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["city"]), (StandardScaler(), ["rooms", "size"])
    )
    model = make_pipeline(columns, LogisticRegression(max_iter=500)).fit(frame, price)
    log(
        "sklearn",
        name,
        folder,
        model,
        frame,
        model.predict,
        pip_requirements=["scikit-learn", "numpy", "pandas", "skops"],
    )


def onnx(name: str, folder: Path) -> None:
    """A linear model in doubles, converted by skl2onnx."""
    from onnxruntime import InferenceSession
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import DoubleTensorType
    from sklearn.linear_model import LinearRegression

    frame = numbers()
    fitted = LinearRegression().fit(frame.to_numpy(), frame["a"] + 2 * frame["b"])
    model = convert_sklearn(fitted, initial_types=[("X", DoubleTensorType([None, 3]))], target_opset=17)
    session = InferenceSession(model.SerializeToString())
    pins = ["onnx", "onnxruntime", "numpy"]
    log(
        "onnx",
        name,
        folder,
        model,
        frame,
        lambda rows: session.run(None, {"X": rows.to_numpy()})[0].ravel(),
        pip_requirements=pins,
    )


def xgboost(name: str, folder: Path) -> None:
    """A boosted classifier."""
    from xgboost import XGBClassifier

    frame = numbers()
    model = XGBClassifier(n_estimators=8).fit(frame, above(frame))
    log("xgboost", name, folder, model, frame, model.predict, pip_requirements=["xgboost-cpu", "scikit-learn", "numpy"])


def lightgbm(name: str, folder: Path) -> None:
    """A boosted regressor."""
    from lightgbm import LGBMRegressor

    frame = numbers()
    model = LGBMRegressor(n_estimators=8, min_child_samples=2, verbose=-1).fit(frame, frame["a"])
    log("lightgbm", name, folder, model, frame, model.predict, pip_requirements=["lightgbm", "scikit-learn", "numpy"])


def statsmodels(name: str, folder: Path) -> None:
    """Ordinary least squares, by way of pyfunc."""
    from statsmodels.api import OLS

    frame = numbers()
    model = OLS(frame["a"] * 2 + frame["b"] ** 2, frame).fit()
    log("statsmodels", name, folder, model, frame, model.predict, pip_requirements=["statsmodels", "mlflow", "numpy"])


def params(name: str, folder: Path) -> None:
    """A model of the author's own class, with parameters that a request may give."""
    import mlflow
    from mlflow.models import infer_signature

    class Scaled(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
            given = params or {"factor": 2.0, "column": "a"}
            return model_input[given["column"]].to_numpy() * given["factor"]

    frame, model = numbers(), Scaled()
    signature = infer_signature(frame, np.zeros(2), params={"factor": 2.0, "column": "a"})
    log("pyfunc", name, folder, model, frame, lambda rows: model.predict(None, rows), signature=signature, pip_requirements=["mlflow", "pandas", "cloudpickle"])  # fmt: skip


def tensors(name: str, folder: Path) -> None:
    """Small images in, a vector an image out."""
    import mlflow

    class Sums(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> Any:
            return model_input.sum(axis=1) / 3

    images, model = np.random.default_rng(5).random((40, 4, 2), dtype=np.float32), Sums()
    log("pyfunc", name, folder, model, images, lambda rows: model.predict(None, rows), pip_requirements=["mlflow", "numpy", "cloudpickle"])  # fmt: skip


AUTHORS = (skops, pickled, cloudpickled, strings, onnx, xgboost, lightgbm, statsmodels, params, tensors)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
