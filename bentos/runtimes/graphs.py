"""scikit-learn models as ONNX graphs of doubles, by skl2onnx."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from bentos.runtimes.candidate import NotConvertedError
from bentos.serving.errors import brief


@dataclass(frozen=True)
class Graph:
    """An ONNX graph over one input of doubles. ``index`` and ``scores`` name its outputs, ``labels`` are what the index
    points at (None: the index is the label). ``trees``: it has trees, whose numbers are floats."""

    content: bytes
    index: str | None
    scores: str | None
    trees: bool


def convert(estimator: Any, columns: int) -> Graph:
    """*estimator* as a graph. Classes come as their positions, whatever the labels are.

    Raises NotConvertedError with the converter's reason.
    """
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import DoubleTensorType
    from sklearn.base import is_classifier, is_regressor

    classifier = is_classifier(estimator)
    if not classifier and not is_regressor(estimator):
        raise NotConvertedError(f"{type(estimator).__name__} is no classifier and no regressor")
    numbered = _numbered(estimator) if classifier else estimator
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of deprecations inside the converter
            model = to_onnx(
                numbered,
                initial_types=[("x", DoubleTensorType([None, columns]))],
                options={id(numbered): {"zipmap": False}} if classifier else None,
            )
    except Exception as error:
        raise NotConvertedError(f"skl2onnx cannot convert it: {brief(error)}") from error
    outputs = [output.name for output in model.graph.output]
    trees = any(node.op_type.startswith("TreeEnsemble") for node in model.graph.node)
    content: bytes = model.SerializeToString()
    if not classifier:
        return Graph(content, None, outputs[0], trees)
    return Graph(content, outputs[0], outputs[1] if len(outputs) > 1 else None, trees)


def _numbered(estimator: Any) -> Any:
    """A copy whose classes are 0, 1, 2 …; the estimator itself where they are that already."""
    classes = np.asarray(getattr(estimator, "classes_", None))
    if classes.ndim != 1 or not len(classes):
        raise NotConvertedError("its classes are not one list: it has several outputs")
    numbers = np.arange(len(classes), dtype=np.int64)
    if classes.dtype.kind in "iu" and np.array_equal(classes, numbers):
        return estimator
    copied = copy.deepcopy(estimator)
    last = copied
    while hasattr(last, "steps"):
        last = last.steps[-1][1]
    try:
        last.classes_ = numbers
    except AttributeError as error:
        raise NotConvertedError(f"the classes of {type(last).__name__} cannot be numbered: {error}") from error
    return copied


def has_trees(estimator: Any) -> bool:
    """Whether a part of *estimator* decides by thresholds, as trees do."""
    parts = [estimator, *(estimator.get_params(deep=True).values() if hasattr(estimator, "get_params") else ())]
    parts += [part for steps in (getattr(estimator, "steps", None) or ()) for part in steps]
    words = ("Tree", "Forest", "Boost", "Binarizer", "Discretizer")
    return any(word in type(part).__name__ for part in parts for word in words)
