"""Real models that answer in every form of MLflow's scoring protocol, and each answer as plain values by output."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.bentos.saved import numbers, save, target

_TIME = re.compile(r"\d{4}-\d\d-\d\dT")
ROWS = 230
"""Enough for several requests of a check, none of which is full."""


def onnx(folder: Path, shifted: bool, *, zipmap: bool, tensors: bool = False) -> Path:
    """Label and probabilities, as skl2onnx writes every classifier: as arrays, or with a ZipMap a record a row."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType
    from sklearn.linear_model import LogisticRegression

    frame = numbers()
    known = target(frame)
    model = LogisticRegression().fit(frame.to_numpy(), 1 - known if shifted else known)
    types = [("X", (FloatTensorType if zipmap else DoubleTensorType)([None, 3]))]  # a ZipMap is of floats
    graph = convert_sklearn(model, initial_types=types, options={id(model): {"zipmap": zipmap}}, target_opset=17)
    return save("onnx", graph, folder, {"X": frame.to_numpy()} if tensors else frame, known)


def regressions(folder: Path, shifted: bool) -> Path:
    """A matrix: two numbers a row."""
    from sklearn.linear_model import LinearRegression

    frame = numbers()
    model = LinearRegression().fit(frame, frame.to_numpy() @ [[1.0, 2.0], [-1.0, 0.3], [0.5, 0.1 + shifted]])
    return save("sklearn", model, folder, frame, model.predict(frame), serialization_format="pickle")


def python(answer: Callable[[pd.DataFrame, bool], Any]) -> Callable[[Path, bool], Path]:
    """A Python model that answers what *answer* makes of a frame."""

    def saved(folder: Path, shifted: bool) -> Path:
        from mlflow.models import ModelSignature
        from mlflow.pyfunc import PythonModel
        from mlflow.types import ColSpec, Schema

        class Model(PythonModel):
            def predict(self, context, model_input, params=None):
                return answer(model_input, shifted)

        signature = ModelSignature(Schema([ColSpec("double", name) for name in "abc"]))
        return save("pyfunc", None, folder, None, None, python_model=Model(), signature=signature)

    return saved


def _label(frame: pd.DataFrame, shifted: bool) -> np.ndarray:
    return np.asarray((frame["a"] + frame["b"] > 1) ^ shifted, dtype=np.int64)


def _score(frame: pd.DataFrame, shifted: bool) -> np.ndarray:
    return frame["c"].to_numpy() + 0.25 * shifted


def _dict(frame: pd.DataFrame, shifted: bool) -> Any:
    return {"label": _label(frame, shifted), "score": _score(frame, shifted)}


def _wide(frame: pd.DataFrame, shifted: bool) -> Any:
    return {"low": _score(frame, shifted), "both": np.stack([_score(frame, False), frame["a"]], axis=1)}


def _uneven(frame: pd.DataFrame, shifted: bool) -> Any:
    return {"score": _score(frame, shifted), "unit": "minutes"}


def _records(frame: pd.DataFrame, shifted: bool) -> Any:
    return [{"label": int(a), "why": {"c": float(b)}} for a, b in zip(_label(frame, shifted), frame["c"], strict=True)]


def _frame(frame: pd.DataFrame, shifted: bool) -> Any:
    score = _score(frame, shifted)
    score[::3] = np.nan
    times = pd.to_datetime("2024-02-29 12:00:00.25") + pd.to_timedelta((frame["a"] * 1e6).astype("int64"), unit="us")
    words = np.where(_label(frame, shifted) == 1, "late", "on time")
    lists = [[a, b] for a, b in zip(frame["a"], frame["b"], strict=True)]
    return pd.DataFrame({"prediction": words, "score": score, "when": times, "parts": lists})


def _texts(frame: pd.DataFrame, shifted: bool) -> Any:
    return [f"{'late' if label else 'on time'}, [{number}]" for number, label in enumerate(_label(frame, shifted))]


FORMS: dict[str, Callable[[Path, bool], Path]] = {
    "onnx": lambda folder, shifted: onnx(folder, shifted, zipmap=False),
    "onnx zipmap": lambda folder, shifted: onnx(folder, shifted, zipmap=True),
    "onnx tensors": lambda folder, shifted: onnx(folder, shifted, zipmap=False, tensors=True),
    "regressions": regressions,
    "array": python(_label),
    "single precision": python(lambda frame, shifted: _score(frame, shifted).astype(np.float32)),
    "dict": python(_dict),
    "dict of tensors": python(_wide),
    "dict, uneven": python(_uneven),
    "dict of numbers": python(lambda frame, shifted: {"mean": float(_score(frame, shifted).mean()), "rows": len(frame)}),
    "list": python(lambda frame, shifted: _score(frame, shifted).tolist()),
    "records": python(_records),
    "frame": python(_frame),
    "series": python(lambda frame, shifted: pd.Series(_score(frame, shifted), name="score")),
    "times": python(lambda frame, shifted: _frame(frame, False)["when"] + pd.Timedelta(days=int(shifted))),
    "number": python(lambda frame, shifted: float(_score(frame, shifted).mean())),
    "texts": python(_texts),
    "text": python(lambda frame, shifted: f"{_label(frame, shifted).sum()} late"),
}  # fmt: skip
"""Form → how such a model is saved, at *folder*; *shifted*: one that answers another value in a row or more."""

BY_REQUEST = ("dict, uneven", "dict of numbers", "number", "text")
"""Forms whose answer is to the request as a whole."""


def rows(form: str, seed: int = 5, count: int = ROWS) -> Any:
    """What the model of *form* is asked: a frame, or a tensor by name."""
    frame = numbers(count, seed)
    return {"X": frame.to_numpy()} if form == "onnx tensors" else frame


def in_process(form: str, folder: Path, asked: Any) -> dict[str, list[Any]]:
    """What MLflow's own loader answers, by output."""
    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(str(folder))
    if form == "onnx":  # given a frame it fails to make a frame of outputs of several widths
        return outputs(model._model_impl.predict(asked.to_numpy()))
    return outputs(model.predict(asked))


def outputs(answer: Any) -> dict[str, list[Any]]:
    """An answer in any form as lists of plain values by output; a nameless one under ""."""
    if isinstance(answer, pd.Series):
        answer = answer.tolist()
    if isinstance(answer, pd.DataFrame):
        answer = {str(name): answer[name].tolist() for name in answer}
    answer = plain(answer)
    if isinstance(answer, dict) and len(answer) == 1:
        answer = next(iter(answer.values()))
    if isinstance(answer, list) and answer and all(isinstance(row, dict) for row in answer):
        answer = {name: [row[name] for row in answer] for name in answer[0]}
    found = answer if isinstance(answer, dict) else {"": answer}
    if len(found) == 1:
        found = {"": next(iter(found.values()))}
    return {str(name): values if isinstance(values, list) else [values] for name, values in found.items()}


def plain(value: Any) -> Any:
    """Python's own values all the way down, as JSON has them: times as texts, a missing number as None."""
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    if isinstance(value, np.ndarray) and value.dtype.kind == "M":
        return [pd.Timestamp(item).isoformat() for item in value]
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        text = value.decode()
        return plain(json.loads(text)) if text[:1] in ("{", "[") else plain(text)
    if isinstance(value, str) and _TIME.match(value):
        return pd.Timestamp(value).isoformat()
    return None if isinstance(value, float) and value != value else value
