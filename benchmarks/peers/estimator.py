"""What every peer's program does with the model's file. Imported in the peers' environments: nothing of ours is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def predictor(file: Path) -> Callable[[Any], Any]:
    """A function of rows [n x 20] to classes [n]: the estimator's own ``predict``, or an onnxruntime session's run."""
    import numpy as np

    if file.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(file), options)
        name = session.get_inputs()[0].name
        return lambda rows: session.run(["label"], {name: np.asarray(rows, np.float32)})[0]
    import joblib

    return joblib.load(file).predict  # type: ignore[no-any-return]
