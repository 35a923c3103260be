"""ONNX: numbers equal to mlflow.pyfunc's, for one tensor, a tensor a column, and tensor signatures."""

from __future__ import annotations

import numpy as np
import pytest

from bentos.serving.model.runner import ModelRunner
from tests.bentos.saved import IGNORED, by_mlflow, numbers, save, target

pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORED]


@pytest.fixture(scope="module")
def converted():
    """A logistic regression over ``numbers`` as ONNX: a factory by converter options."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.linear_model import LogisticRegression

    frame = numbers()
    model = LogisticRegression().fit(frame.to_numpy(), target(frame))

    def make(**options):
        types = [("X", FloatTensorType([None, 3]))]
        return convert_sklearn(model, initial_types=types, options={id(model): options}, target_opset=17)

    return make


def test_columns_are_answered_by_a_table_as_mlflow_does(tmp_path, converted):
    frame = numbers(50, seed=2)
    folder = save("onnx", converted(), tmp_path / "m", frame, target(frame))
    found = ModelRunner.load(folder).predict(frame, probabilities=True)
    wanted = by_mlflow(folder, frame)
    assert found.table
    assert list(found.values) == list(wanted.columns)
    for name, array in found.values.items():
        assert array.tolist() == wanted[name].tolist()
    assert found.classes == (0, 1)
    assert np.array_equal(found.probabilities.argmax(axis=1), found.values["output_label"])


def test_wide_outputs_keep_their_shape(tmp_path, converted):
    frame = numbers(50, seed=2)
    folder = save("onnx", converted(zipmap=False), tmp_path / "m", frame, target(frame))
    found = ModelRunner.load(folder).predict(frame, probabilities=True)
    assert not found.table
    assert found.values["probabilities"].shape == (50, 2)
    assert np.array_equal(found.probabilities, found.values["probabilities"])


def test_tensors_are_answered_by_tensors(tmp_path, converted):
    array = numbers(50, seed=2).to_numpy(np.float32)
    folder = save("onnx", converted(zipmap=False), tmp_path / "m", {"X": array}, target(numbers(50, seed=2)))
    found = ModelRunner.load(folder).predict({"X": array})
    wanted = by_mlflow(folder, {"X": array})
    assert not found.table
    for name, values in found.values.items():
        assert np.array_equal(values, wanted[name])


def test_one_input_a_column_with_strings(tmp_path):
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "k"], ["product"]), helper.make_node("Identity", ["s"], ["word"])],
        "columns",
        [
            helper.make_tensor_value_info("s", TensorProto.STRING, [None]),
            helper.make_tensor_value_info("x", TensorProto.DOUBLE, [None]),
            helper.make_tensor_value_info("k", TensorProto.DOUBLE, [None]),
        ],
        [
            helper.make_tensor_value_info("product", TensorProto.DOUBLE, [None]),
            helper.make_tensor_value_info("word", TensorProto.STRING, [None]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    frame = numbers(5)[["a", "b"]].rename(columns={"a": "x", "b": "k"}).assign(s=list("vwxyz"))
    folder = save("onnx", model, tmp_path / "m", frame, frame["x"])
    found = ModelRunner.load(folder).predict(frame)
    wanted = by_mlflow(folder, frame)
    assert found.values["product"].tolist() == wanted["product"].tolist()
    assert found.values["word"].tolist() == wanted["word"].tolist()


def test_one_thread_unless_logged_otherwise(tmp_path, converted):
    frame = numbers(5)
    plain = save("onnx", converted(), tmp_path / "a", frame, target(frame))
    more = save(
        "onnx", converted(), tmp_path / "b", frame, target(frame), onnx_session_options={"intra_op_num_threads": 2}
    )
    assert ModelRunner.load(plain).predictor.session.get_session_options().intra_op_num_threads == 1
    assert ModelRunner.load(more).predictor.session.get_session_options().intra_op_num_threads == 2
