"""ONNX models through onnxruntime, without mlflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bentos.serving.inputs.rows import InputRows
from bentos.serving.model.interface import PredictError, Prediction

DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}
CHANCES = ("probabilities", "output_probability", "probability")
"""The names that skl2onnx and onnxmltools give the output of class probabilities."""


def load(folder: Path, mlmodel: Mapping[str, Any]) -> OnnxPredictor:
    """The predictor of a folder with flavor ``onnx``, on one thread unless the model was logged with more."""
    import onnxruntime

    conf = mlmodel["flavors"]["onnx"]
    options = session_options(conf.get("onnx_session_options") or {})
    session = onnxruntime.InferenceSession(str(folder / conf["data"]), options, providers=providers(conf))
    inputs = tuple((item.name, item.type, len(item.shape or ())) for item in session.get_inputs())
    return OnnxPredictor(session, inputs, tuple(item.name for item in session.get_outputs()))


def session_options(wanted: Mapping[str, Any]) -> Any:
    """onnxruntime's options from those logged with the model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = wanted.get("intra_op_num_threads") or 1
    options.inter_op_num_threads = wanted.get("inter_op_num_threads") or 1
    if mode := wanted.get("execution_mode"):
        options.execution_mode = getattr(onnxruntime.ExecutionMode, f"ORT_{mode.upper()}")
    if level := wanted.get("graph_optimization_level"):
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel(level)
    for key, value in (wanted.get("extra_session_config") or {}).items():
        options.add_session_config_entry(key, value)
    return options


def providers(conf: Mapping[str, Any]) -> list[Any]:
    """Those of the logged execution providers that this onnxruntime has; the CPU where none is."""
    import onnxruntime

    logged = conf.get("providers") or []
    entries = [
        tuple(item) if isinstance(item, list) else item for item in ([logged] if isinstance(logged, str) else logged)
    ]
    have = set(onnxruntime.get_available_providers())
    return [item for item in entries if (item[0] if isinstance(item, tuple) else item) in have] or [
        "CPUExecutionProvider"
    ]


@dataclass(frozen=True)
class OnnxPredictor:
    """A session. ``inputs`` are (name, ONNX type, rank): one [rows x columns] tensor, or one a column."""

    session: Any
    inputs: tuple[tuple[str, str, int], ...]
    outputs: tuple[str, ...]

    def predict(self, data: InputRows, params: Mapping[str, Any], *, probabilities: bool = False) -> Prediction:
        """Answer ``data`` with every output by name; params are ignored, as MLflow ignores them for ONNX.

        Columns are answered by a table, each output flattened to one value a row, as MLflow does; an output that has more
        values than rows keeps its shape. Tensors are answered by tensors.
        """
        found = dict(zip(self.outputs, self.session.run(self.outputs, self._feed(data)), strict=True))
        # ZipMap's list of dicts: an object array; a single number for all rows: an array of one
        arrays = {name: np.atleast_1d(np.asarray(value)) for name, value in found.items()}
        if data.tensors is None:
            arrays = {name: a.reshape(-1) if a.size == data.rows else a for name, a in arrays.items()}
        table = data.tensors is None and all(array.ndim == 1 for array in arrays.values())
        if not probabilities:
            return Prediction(arrays, table=table)
        return Prediction(arrays, *_probabilities(found), table=table)

    def _feed(self, data: InputRows) -> dict[str, np.ndarray]:
        if len(self.inputs) == 1:
            name, kind, _ = self.inputs[0]
            return {name: _cast(data.array(), kind)}
        given = data.tensors or data.columns or {}
        feed = {}
        for name, kind, rank in self.inputs:
            if name not in given:
                raise PredictError(
                    f"the ONNX input {name!r} is no column of the signature {sorted(given)}: log it anew"
                )
            array = _cast(given[name], kind)
            feed[name] = array.reshape(-1, 1) if rank == 2 and array.ndim == 1 else array
        return feed


def _cast(array: np.ndarray, kind: str) -> np.ndarray:
    wanted = DTYPES.get(kind)
    return array if wanted is None or array.dtype == wanted else array.astype(wanted)


def _probabilities(found: Mapping[str, Any]) -> tuple[np.ndarray | None, tuple[Any, ...] | None]:
    """Class probabilities among the outputs: a ZipMap's dicts name their classes, an array of floats does not."""
    for name in CHANCES:
        value = found.get(name)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            classes = tuple(value[0])
            return np.array([[row[c] for c in classes] for row in value]), classes
        if isinstance(value, np.ndarray) and value.ndim == 2:
            return value, tuple(range(value.shape[1]))
    return None, None
