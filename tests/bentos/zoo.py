"""Real models over every kind of input, as MLflow saves them, and random inputs that fit each."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from hypothesis import strategies as st

from tests.bentos.saved import numbers, save, target

NAMES = ["a", "b", "c"]
FIELDS = {
    "n": pa.int64(), "x": pa.float64(), "flag": pa.bool_(), "s": pa.string(), "when": pa.timestamp("ns"),
    "y": pa.float64(), "note": pa.string(), "k": pa.int64(), "maybe": pa.bool_(), "end": pa.timestamp("ns"),
}  # fmt: skip
KINDS = {"n": "long", "x": "double", "flag": "boolean", "s": "string", "when": "datetime"}
KINDS |= {"y": "double", "note": "string", "k": "long", "maybe": "boolean", "end": "datetime"}
REQUIRED = ("n", "x", "flag", "s", "when")
WHOLE = ("k", "maybe")  # optional, but MLflow itself refuses a null among whole numbers and booleans

_floats = (
    st.floats(-2, 2) | st.floats(-1e6, 1e6) | st.sampled_from([0.1, 1 / 3, -0.0, 5e-324, 1e-300, -1e15, 2.0**53 + 2])
)
_singles = st.floats(-1e6, 1e6, width=32)
_longs = st.integers(-(2**63), 2**63 - 1)
_texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=5)  # NPY drops a last \0
_times = st.integers(-(10**18), 2 * 10**18)  # ns: the years 1938 to 2033
_cells = {"long": _longs, "double": _floats, "boolean": st.booleans(), "string": _texts, "datetime": _times}


def tables(columns: dict[str, Any], types: dict[str, pa.DataType]) -> st.SearchStrategy[pa.Table]:
    """One to five rows of *columns*, which say what each cell is drawn from."""
    rows = st.lists(st.tuples(*columns.values()), min_size=1, max_size=5)
    return rows.map(lambda found: pa.table({name: pa.array([row[i] for row in found], types[name]) for i, name in enumerate(columns)}))  # fmt: skip


def _optional(*required: str) -> dict[str, Any]:
    """Every column; those that are not *required* may be null."""
    return {name: _cells[kind] if name in required else st.none() | _cells[kind] for name, kind in KINDS.items()}


_three = dict.fromkeys(NAMES, pa.float64())
DRAWN: dict[str, st.SearchStrategy[Any]] = {
    "doubles": tables(dict.fromkeys(NAMES, _floats), _three),
    "doubles, null": tables(dict.fromkeys(NAMES, _floats | st.none() | st.sampled_from([math.nan, math.inf, -math.inf])), _three),
    "mixed": tables({name: _cells[KINDS[name]] for name in REQUIRED}, FIELDS),
    "mixed, null": tables({**_optional(*REQUIRED, *WHOLE), "s": st.just("") | _texts}, FIELDS),
    # a whole number beside a null is a double to pandas, MLflow and ours
    "mixed, any null": tables({**_optional(*REQUIRED), "k": st.none() | st.integers(-(2**53), 2**53)}, FIELDS),
    "tensor": st.lists(st.lists(_floats, min_size=3, max_size=3), min_size=1, max_size=5).map(lambda rows: np.array(rows)),
    "named": st.lists(st.tuples(_singles, _singles, _longs), min_size=1, max_size=5).map(
        lambda rows: {"x": np.array([row[:2] for row in rows], "f4"), "n": np.array([row[2] for row in rows], "i8")}
    ),
}  # fmt: skip
"""What is drawn of each kind of input: an Arrow table, an array, or arrays by name."""


def logistic_regression(folder: Path) -> Path:
    """Over a frame, with probabilities."""
    from sklearn.linear_model import LogisticRegression

    return _estimator(LogisticRegression(), folder)


def ridge(folder: Path) -> Path:
    """A regression over a frame."""
    from sklearn.linear_model import Ridge

    frame = numbers()
    return save("sklearn", model := Ridge().fit(frame, frame["a"] * 3 - frame["c"]), folder, frame, model.predict(frame))  # fmt: skip


def random_forest(folder: Path) -> Path:
    """Twenty trees over a frame."""
    from sklearn.ensemble import RandomForestClassifier

    return _estimator(RandomForestClassifier(20, random_state=0), folder)


def boosting(folder: Path) -> Path:
    """Histogram boosting, which takes missing numbers as they are."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return _estimator(HistGradientBoostingClassifier(max_iter=20), folder)


def onnx_columns(folder: Path) -> Path:
    """A logistic regression in doubles, whose two outputs have names."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import DoubleTensorType
    from sklearn.linear_model import LogisticRegression

    frame = numbers()
    model = LogisticRegression().fit(frame.to_numpy(), target(frame))
    types = [("X", DoubleTensorType([None, 3]))]
    graph = convert_sklearn(model, initial_types=types, options={id(model): {"zipmap": False}}, target_opset=17)
    return save("onnx", graph, folder, frame, target(frame))


def array_regression(folder: Path) -> Path:
    """A regression of two values over one unnamed tensor."""
    from sklearn.linear_model import LinearRegression

    array = numbers().to_numpy()
    model = LinearRegression().fit(array, array @ [[1.0, 2.0], [-1.0, 0.3], [0.5, 0.1]])
    return save("sklearn", model, folder, array, model.predict(array))


def onnx_tensors(folder: Path) -> Path:
    """Two named tensors in and out: z = tanh(x W), in single precision, and twice n, which wraps around."""
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.array([[0.25, -1.5], [3.0, 1e-6]], "f4"), "W")
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["y"]),
        helper.make_node("Tanh", ["y"], ["z"]),
        helper.make_node("Add", ["n", "n"], ["m"]),
    ]
    ends = [helper.make_tensor_value_info(*about) for about in (
        ("x", TensorProto.FLOAT, [None, 2]), ("n", TensorProto.INT64, [None]),
        ("z", TensorProto.FLOAT, [None, 2]), ("m", TensorProto.INT64, [None]),
    )]  # fmt: skip
    graph = helper.make_graph(nodes, "g", ends[:2], ends[2:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    inputs = Schema([TensorSpec(np.dtype("f4"), (-1, 2), "x"), TensorSpec(np.dtype("i8"), (-1,), "n")])
    outputs = Schema([TensorSpec(np.dtype("f4"), (-1, 2), "z"), TensorSpec(np.dtype("i8"), (-1,), "m")])
    return save("onnx", model, folder, None, None, signature=ModelSignature(inputs, outputs))


def echo(folder: Path) -> Path:
    """A Python model that answers, as one text a row, everything it was given: any lost bit shows."""
    return _python(folder, lambda frame: np.array(_said(frame), dtype=object))


def echo_table(folder: Path) -> Path:
    """The same as a table of three columns."""
    return _python(
        folder, lambda frame: pd.DataFrame({"said": _said(frame), "half": frame["x"] / 2, "same": frame["n"]})
    )


def echo_native(folder: Path) -> Path:
    """The same as an estimator, which no MLflow stands before; answers the text's CRC, which may be joined."""
    from sklearn.base import BaseEstimator

    class Echo(BaseEstimator):
        def predict(self, frame):
            return np.array([zlib.crc32(text.encode()) for text in _said(frame)])

    return save("sklearn", Echo(), folder, None, None, signature=_signature(), serialization_format="cloudpickle")


def sealed(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """As *make* saves it, sealed with the runtime that the build chooses for it."""

    def sealed_in(folder: Path) -> Path:
        from bentos.runtimes.choose import choose

        runtime = folder / "src" / "runtime"
        runtime.mkdir(parents=True)
        found = choose(make(folder / "src" / "model"), runtime, "auto", None)
        (runtime / "runtime.json").write_text(json.dumps(found))
        seal = {"model": "m", "version": "3", "runtime": found["runtime"]}
        (folder / "src" / "shipway.json").write_text(json.dumps(seal))
        return folder

    return sealed_in


MODELS: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "logistic regression": (logistic_regression, ("doubles",)),
    "ridge": (ridge, ("doubles",)),
    "random forest": (random_forest, ("doubles",)),
    "boosting": (boosting, ("doubles", "doubles, null")),
    "onnx": (onnx_columns, ("doubles",)),
    "onnx tensors": (onnx_tensors, ("named",)),
    "array regression": (array_regression, ("tensor",)),
    "random forest, sealed": (sealed(random_forest), ("doubles",)),
    "boosting, sealed": (sealed(boosting), ("doubles", "doubles, null")),
    "ridge, sealed": (sealed(ridge), ("doubles",)),
    "echo": (echo, ("mixed", "mixed, null")),
    "echo table": (echo_table, ("mixed",)),
    "echo native": (echo_native, ("mixed", "mixed, any null")),
}
"""How each model is saved, and the kinds of input that it is asked with."""


def _estimator(model: Any, folder: Path) -> Path:
    frame = numbers(200)
    model.fit(frame, target(frame))
    return save("sklearn", model, folder, frame, model.predict(frame), serialization_format="cloudpickle")


def _said(frame: pd.DataFrame) -> list[str]:
    def one(value: Any) -> str:
        if value is None or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
            return "-"
        if isinstance(value, pd.Timestamp):
            return str(value.value)
        return value.hex() if isinstance(value, float) else f"{type(value).__name__}:{value}"

    return ["|".join(f"{name}={one(value)}" for name, value in row.items()) for row in frame.to_dict("records")]


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    return ModelSignature(Schema([ColSpec(kind, name, required=name in REQUIRED) for name, kind in KINDS.items()]))


def _python(folder: Path, answer: Callable[[pd.DataFrame], Any]) -> Path:
    from mlflow.pyfunc import PythonModel

    class Model(PythonModel):
        def predict(self, context, model_input, params=None):
            return answer(model_input)

    return save("pyfunc", None, folder, None, None, python_model=Model(), signature=_signature())
