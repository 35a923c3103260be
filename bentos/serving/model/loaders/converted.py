"""Converted models: an ONNX graph or treelite's GTIL in place of the model, fed and read as its Converted says."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bentos.serving.inputs.rows import InputRows
from bentos.serving.model.interface import LoadError, Prediction
from bentos.serving.model.profile import Converted, Refused

Run = Callable[[np.ndarray, bool], tuple[np.ndarray | None, np.ndarray | None]]
"""From the input [rows x columns] and whether probabilities are wanted to (index [rows], scores [rows x n])."""


def load(folder: Path, runtime: str, converted: Converted) -> ConvertedPredictor:
    """The predictor of ``folder``, whose ``runtime`` is ``onnx`` or ``gtil``; one thread. Raises LoadError."""
    path = folder / converted.file
    try:
        run = onnx_run(path.read_bytes(), converted) if runtime == "onnx" else gtil_run(path.read_bytes(), converted)
    except Exception as error:
        raise LoadError(
            f"the {runtime} runtime in {path} cannot be loaded: {type(error).__name__}: {error}. Build the bento again"
        ) from error
    return ConvertedPredictor(converted, run)


def onnx_run(model: bytes, converted: Converted) -> Run:
    """A session of the ONNX ``model`` as a Run."""
    from onnxruntime import InferenceSession

    from bentos.serving.model.loaders.onnx import session_options

    session = InferenceSession(model, session_options({}), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0].name
    index, scores, run = converted.index, converted.scores, session.run
    if index is None:
        names = [scores]
        return lambda x, _: (None, run(names, {given: x})[0])
    first, both = [index], [index, scores]
    if converted.probabilities is None:
        return lambda x, _: (run(first, {given: x})[0], None)
    return lambda x, wanted: tuple(run(both, {given: x})) if wanted else (run(first, {given: x})[0], None)


def gtil_run(model: bytes, converted: Converted) -> Run:
    """A treelite ``model`` (its checkpoint) as a Run."""
    from treelite import Model
    from treelite.gtil import predict

    trees, softmax = Model.deserialize_bytes(model), converted.after == "softmax"

    def run(x: np.ndarray, _: bool) -> tuple[None, np.ndarray]:
        scores = predict(trees, x, nthread=1, pred_margin=softmax).reshape(len(x), -1)
        return None, _softmax(scores) if softmax else scores

    return run


def _softmax(sums: np.ndarray) -> np.ndarray:
    powers = np.exp(sums - sums.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


class ConvertedPredictor:
    """Answers as the model would: same types, same labels, same refusals in the same words."""

    def __init__(self, converted: Converted, run: Run) -> None:
        self._run = run
        self._through = None if converted.through is None else np.dtype(converted.through)
        self._feed = np.dtype(converted.feed)
        self._widen = None if converted.widen is None else np.dtype(converted.widen)
        self._nan, self._inf = converted.nan, converted.inf
        self._limits = np.array(converted.limits) if converted.limits else None
        self._dtype = np.dtype(converted.dtype)
        self._labels = np.array(converted.labels, dtype=converted.label_dtype or None)
        self._classes = tuple(converted.labels) or None
        self._value: Callable[[Any, Any], np.ndarray] = getattr(self, f"_by_{converted.rule}")
        self._probability: Callable[[Any, Any], np.ndarray] | None = (
            None if converted.probabilities is None else getattr(self, f"_by_{converted.probabilities}")
        )

    def predict(self, data: InputRows, params: Mapping[str, Any], *, probabilities: bool = False) -> Prediction:
        """Answer ``data``; converted models take no params. Raises what the model itself would raise."""
        x = data.matrix(self._through or self._feed)
        if self._through is not None:
            with np.errstate(over="ignore"):
                x = x.astype(self._feed)
        if self._nan is not None or self._inf is not None:
            self._guard(x)
        if self._widen is not None:
            x = x.astype(self._widen)
        index, scores = self._run(x, probabilities)
        if not probabilities or self._probability is None:
            return Prediction(self._value(index, scores))
        return Prediction(self._value(index, scores), self._probability(index, scores), self._classes)

    def _guard(self, x: np.ndarray) -> None:
        """Raises for the first value, row by row, that the model refuses."""
        good = np.isfinite(x) if self._limits is None else np.abs(x) <= self._limits
        if good.all():
            return
        for value in x[~good]:
            refused = self._nan if value != value else self._inf
            if refused is not None:
                raise _error(refused)

    def _by_index(self, index: np.ndarray, _: Any) -> np.ndarray:
        return self._labels.take(index)

    def _by_argmax(self, _: Any, scores: np.ndarray) -> np.ndarray:
        return self._labels.take(np.asarray(scores.argmax(axis=1)))

    def _by_above(self, _: Any, scores: np.ndarray) -> np.ndarray:
        return self._labels.take((self._own(scores) > 0.5).ravel())

    def _by_from(self, _: Any, scores: np.ndarray) -> np.ndarray:
        return self._labels.take((self._own(scores) >= 0.5).ravel())

    def _by_flat(self, _: Any, scores: np.ndarray) -> np.ndarray:
        return self._own(scores).ravel()

    def _by_rows(self, _: Any, scores: np.ndarray) -> np.ndarray:
        return self._own(scores)

    def _by_pair(self, _: Any, scores: np.ndarray) -> np.ndarray:
        second = self._own(scores).ravel()
        return np.stack((1 - second, second), axis=1)

    def _own(self, scores: np.ndarray) -> np.ndarray:
        return scores if scores.dtype == self._dtype else scores.astype(self._dtype)


def _error(refused: Refused) -> Exception:
    """An error of the class that the model's library raised: Python's own, else one by that name, whose library is not here."""
    known = getattr(builtins, refused.error, None)
    if isinstance(known, type) and issubclass(known, Exception):
        return known(refused.words)
    kind: type[Exception] = type(refused.error, (Exception,), {})
    return kind(refused.words)
