"""Every other flavor, through mlflow.pyfunc."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bentos.serving.inputs.signature import InputError
from bentos.serving.model.interface import PredictError
from bentos.serving.model.runner import ModelRunner
from tests.bentos.saved import IGNORED, by_mlflow, numbers, save

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORED]


@pytest.fixture(scope="module")
def custom(tmp_path_factory):
    """A Python model with every kind of column, an optional column and params."""
    from mlflow.models import ModelSignature
    from mlflow.pyfunc import PythonModel
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array, Map, Object, Property

    class Scale(PythonModel):
        def predict(self, context, model_input, params=None):
            if (model_input["x"] < 0).any():
                raise KeyError("no x below zero")
            return pd.DataFrame(
                {
                    "scaled": model_input["x"] * params["factor"],
                    "tags": [len(tags) for tags in model_input["tags"]],
                    "depth": [o["p"] + len(m) for o, m in zip(model_input["o"], model_input["m"], strict=True)],
                    "year": model_input["when"].dt.year,
                    "bytes": [len(raw) for raw in model_input["raw"]],
                    "note": "note" in model_input.columns,
                    "kind": [type(p).__name__ for p in [params["names"]] * len(model_input)],
                }
            )

    inputs = Schema(
        [
            ColSpec("double", "x"),
            ColSpec(Array(DataType.string), "tags"),
            ColSpec(Object([Property("p", DataType.long), Property("q", DataType.double, required=False)]), "o"),
            ColSpec(Map(DataType.string), "m"),
            ColSpec("datetime", "when"),
            ColSpec("binary", "raw"),
            ColSpec("string", "note", required=False),
        ]
    )
    params = ParamSchema([ParamSpec("factor", "double", 2.0), ParamSpec("names", "string", ["a"], (-1,))])
    folder = tmp_path_factory.mktemp("pyfunc") / "m"
    signature = ModelSignature(inputs, Schema([ColSpec("double")]), params)
    return save("pyfunc", None, folder, None, None, python_model=Scale(), signature=signature)


@pytest.fixture
def frame():
    return pd.DataFrame(
        {
            "x": [1.0, 2.5],
            "tags": [["a", "b"], []],
            "o": [{"p": 1}, {"p": 2, "q": 0.5}],
            "m": [{"k": "v"}, {}],
            "when": pd.to_datetime(["2013-01-01T00:00:00", "2014-06-01T12:00:00"]),
            "raw": [b"abc", b""],
        }
    )


def test_every_kind_of_column_and_params_as_mlflow(custom, frame):
    runner = ModelRunner.load(custom)
    for params in ({}, {"factor": 3, "names": ["x", "y"]}):
        found = runner.predict(frame, params).values
        pd.testing.assert_frame_equal(found, by_mlflow(custom, frame, {k: float(v) if k == "factor" else v for k, v in params.items()}))  # fmt: skip
    assert not found["note"].any()


def test_json_gives_the_same_as_a_frame(custom, frame):
    table = {name: frame[name].tolist() for name in ("x", "tags", "o", "m")}
    table |= {"when": ["2013-01-01T00:00:00", "2014-06-01T12:00:00"], "raw": ["YWJj\n", ""]}
    runner = ModelRunner.load(custom)
    pd.testing.assert_frame_equal(runner.predict(table).values, runner.predict(frame).values)


def test_what_the_model_raises_is_a_predict_error_with_its_words(custom, frame):
    with pytest.raises(PredictError, match="KeyError: 'no x below zero'") as caught:
        ModelRunner.load(custom).predict(frame.assign(x=-1.0))
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tags": [["a", 1], []]}, r"'tags': found integer 1 at \[1\] in row 0"),
        ({"o": [{"p": 1}, {"z": 2}]}, "'o': found unknown property 'z' in row 1"),
        ({"o": [{"p": 1}, {}]}, "'o': found no property 'p' in row 1"),
        ({"m": [{"k": "v"}, 3]}, "'m': found integer 3 in row 1"),
        ({"raw": ["YWJj", "%"]}, "'raw': found text that is not base64 in row 1"),
        ({"when": ["2013-01-01", "soon"]}, "'when': found string 'soon' in row 1"),
    ],
)
def test_nested_misfits_are_named(custom, frame, change, words):
    table = {name: frame[name].tolist() for name in frame.columns} | change
    with pytest.raises(InputError, match=words):
        ModelRunner.load(custom).predict(table)


def test_statsmodels(tmp_path):
    import statsmodels.api as sm

    frame = numbers()
    fitted = sm.OLS(frame["c"], frame[["a", "b"]]).fit()
    wanted = fitted.predict(frame[["a", "b"]])
    folder = save("statsmodels", fitted, tmp_path / "m", frame[["a", "b"]], wanted)
    runner = ModelRunner.load(folder)
    assert runner.flavor == "python_function"
    found = runner.predict(numbers(30, seed=5)[["b", "a"]])
    assert isinstance(found.values, np.ndarray)
    assert np.array_equal(found.values, np.asarray(by_mlflow(folder, numbers(30, seed=5)[["a", "b"]])))
