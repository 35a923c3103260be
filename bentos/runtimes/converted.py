"""The candidates of a model: every conversion of it that the converters can make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bentos.runtimes import graphs, trees
from bentos.runtimes.candidate import EXACT, SINGLE, Candidate, NotConvertedError
from bentos.runtimes.refusals import Refusals
from bentos.runtimes.trees import Trees
from bentos.serving.model.interface import Prediction
from bentos.serving.model.profile import Converted

ONNX_FILE, GTIL_FILE = "model.onnx", "model.treelite"


@dataclass(frozen=True)
class Subject:
    """What is converted: the estimator, its ``columns``, and what is known of its answers.

    ``sample`` is an answer of the native model with probabilities. ``ensemble`` is the estimator as treelite reads it,
    None where it is no tree ensemble. ``mixed``: its columns are not of one type.
    """

    estimator: Any
    columns: int
    sample: Prediction
    ensemble: Trees | None
    mixed: bool
    refusals: Refusals

    @property
    def labels(self) -> tuple[Any, ...]:
        """The classes that it answers; empty where it answers numbers."""
        values, classes = np.asarray(self.sample.values), getattr(self.estimator, "classes_", None)
        if classes is None or values.ndim != 1:
            return ()
        known = np.asarray(classes)
        if known.ndim != 1 or not np.isin(values, known).all():
            return ()
        return tuple(known.tolist())


def candidates(subject: Subject) -> list[tuple[str, Callable[[], Candidate]]]:
    """Runtime → how its candidate is made; making may raise NotConvertedError."""
    if subject.ensemble is not None:
        return [("onnx", lambda: _trees_as_onnx(subject)), ("gtil", lambda: _trees_as_gtil(subject))]
    if type(subject.estimator).__module__.partition(".")[0] == "sklearn":
        return [("onnx", lambda: _by_skl2onnx(subject))]
    return []


def _trees_as_onnx(subject: Subject) -> Candidate:
    assert subject.ensemble is not None
    model = trees.to_onnx(subject.ensemble)
    feed = "float32" if subject.ensemble.single else "float64"
    classes = max(int(subject.ensemble.raw["num_class"][0]), 1)
    tolerance = EXACT if subject.ensemble.doubles else SINGLE
    converted = _converted(subject, ONNX_FILE, feed, classes, scores="scores")
    return Candidate("onnx", model, converted, tolerance)


def _trees_as_gtil(subject: Subject) -> Candidate:
    ensemble = subject.ensemble
    assert ensemble is not None
    if ensemble.raw["postprocessor"] == "max_index":
        raise NotConvertedError("it answers the number of a class in place of scores")
    width = ensemble.several if ensemble.several > 1 else max(int(ensemble.raw["num_class"][0]), 1)
    feed = "float32" if ensemble.single else "float64"
    widen = "float64" if ensemble.single and ensemble.doubles else None
    tolerance = EXACT if ensemble.doubles else SINGLE
    after = "softmax" if ensemble.raw["postprocessor"] == "softmax" and ensemble.doubles else None
    converted = replace(_converted(subject, GTIL_FILE, feed, width, widen=widen), after=after)
    return Candidate("gtil", ensemble.model.serialize_bytes(), converted, tolerance)


def _by_skl2onnx(subject: Subject) -> Candidate:
    graph = graphs.convert(subject.estimator, subject.columns)
    probabilities = subject.sample.probabilities
    values = np.asarray(subject.sample.values)
    width = values.shape[1] if values.ndim == 2 else 1
    if graph.index is None or not subject.labels:
        if graph.scores is None:
            raise NotConvertedError("the converter made no scores")
        converted = _converted(subject, ONNX_FILE, "float64", width, scores=graph.scores)
    else:
        converted = Converted(
            ONNX_FILE,
            "float64",
            "index",
            _float(probabilities),
            index=graph.index,
            scores=graph.scores if probabilities is not None else None,
            labels=subject.labels,
            label_dtype=values.dtype.str,
            probabilities="rows" if probabilities is not None else None,
            **vars(subject.refusals),
        )
    return Candidate("onnx", graph.content, converted, SINGLE if graph.trees else EXACT)


def _converted(
    subject: Subject, file: str, feed: str, width: int, *, scores: str | None = None, widen: str | None = None
) -> Converted:
    """How scores of *width* columns become the answers of the sample. Raises NotConvertedError where no rule does."""
    values, probabilities = np.asarray(subject.sample.values), subject.sample.probabilities
    labels = subject.labels
    if labels:
        rule, dtype = _label_rule(subject, width), _float(probabilities)
    elif values.ndim == 1 and width == 1:
        rule, dtype = "flat", values.dtype.str
    elif values.ndim == 2 and width in (values.shape[1], 1) and values.shape[1] in (width, 2):
        rule, dtype = ("rows" if width == values.shape[1] else "pair"), values.dtype.str
    else:
        raise NotConvertedError(f"its answers have the shape {values.shape[1:]}, its scores {width} columns")
    if np.dtype(dtype).kind != "f":
        raise NotConvertedError(f"it answers {dtype}, expected floats or classes")
    through = "float64" if subject.mixed and feed == "float32" and not _by_column(subject.estimator) else None
    known = subject.sample.classes or labels
    return Converted(
        file,
        feed,
        rule,
        dtype,
        through=through,
        widen=widen,
        scores=scores,
        labels=tuple(known or ()),
        label_dtype=values.dtype.str if labels else "",
        probabilities=None if probabilities is None else ("rows" if probabilities.shape[1] == width else "pair"),
        **vars(subject.refusals),
    )


def _label_rule(subject: Subject, width: int) -> str:
    if width == len(subject.labels):
        return "argmax"
    if width == 1 and len(subject.labels) == 2:
        return "from" if type(subject.estimator).__name__ == "GradientBoostingClassifier" else "above"
    raise NotConvertedError(f"it has {len(subject.labels)} classes, its scores {width} columns")


def _by_column(estimator: Any) -> bool:
    """Whether the library casts each column by itself, where pandas' frame would meet in one type first."""
    return type(estimator).__module__.partition(".")[0] == "xgboost"


def _float(probabilities: np.ndarray | None) -> str:
    return "<f8" if probabilities is None else probabilities.dtype.str
