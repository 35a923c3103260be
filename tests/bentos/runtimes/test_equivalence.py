"""Equivalence: wrong conversions are refused with the first row that differs, and the model itself answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from bentos.runtimes import choose as chooser
from bentos.runtimes import equivalence, refusals
from bentos.runtimes.candidate import SINGLE, Candidate
from bentos.runtimes.converted import candidates
from bentos.runtimes.rows import Maker
from bentos.serving.model.profile import Converted
from bentos.serving.model.runner import ModelRunner
from tests.bentos.runtimes.models import frame, saved, words
from tests.bentos.saved import IGNORED, save

pytestmark = [pytest.mark.usefixtures("soon"), *(pytest.mark.filterwarnings(line) for line in IGNORED)]


def trial_of(folder) -> chooser.Trial:
    """Everything that a conversion of the model is compared on."""
    native = ModelRunner.load(folder)
    maker = Maker.of(native.plan)
    row = np.full(maker.width, 0.3)
    odd = refusals.odd(native, maker, row, np.random.default_rng(0))
    return chooser._trial(native, maker, None, row, odd)


def judged(trial: chooser.Trial, candidate: Candidate) -> str:
    return chooser.judge(trial, candidate, equivalence.with_predictor(trial.native, candidate.predictor()))


def changed(model: bytes, change) -> bytes:
    """A graph whose first tensor of doubles is changed: the thresholds of its trees, or its coefficients."""
    graph = onnx.load_model_from_string(model)
    tensors = [
        attribute.t
        for node in graph.graph.node
        for attribute in node.attribute
        if attribute.name in ("nodes_splits", "value")
    ] + list(graph.graph.initializer)
    tensor = next(t for t in tensors if t.data_type == onnx.TensorProto.DOUBLE and np.prod(t.dims) > 1)
    array = onnx.numpy_helper.to_array(tensor).copy()
    tensor.CopyFrom(onnx.numpy_helper.from_array(change(array), tensor.name))
    return graph.SerializeToString()


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (
            "histograms",
            lambda a: np.where(np.arange(a.size) == 7, np.nextafter(a, np.inf), a),
        ),  # one threshold, one ulp
        ("forest", lambda a: np.where(np.arange(a.size) == 3, a - 1e-3, a)),
        ("logistic", lambda a: a * (1 + 1e-7)),
        ("linear", lambda a: np.where(a == a.flat[0], a + 1e-6, a)),
    ],
)
def test_a_conversion_with_one_wrong_number_is_refused(kind, change, tmp_path, monkeypatch):
    folder = saved(kind, tmp_path / "m")
    trial = trial_of(folder)
    right = candidates(trial.subject)[0][1]()
    assert judged(trial, right) == ""
    wrong = replace(right, model=changed(right.model, change))
    reason = judged(trial, wrong)
    assert "expected" in reason and "found" in reason and "a=" in reason

    monkeypatch.setattr(chooser, "candidates", lambda subject: [("onnx", lambda: wrong)])
    found = chooser.choose(folder, tmp_path, "auto", None)
    assert found["runtime"] == "native"
    assert found["reason"].startswith("native: onnx: ") and "expected" in found["reason"]
    assert found["candidates"][1]["refused"] in found["reason"]
    assert not (tmp_path / "model.onnx").exists()


def test_lightgbm_as_floats_changes_classes_at_thresholds(tmp_path):
    """The converter's own way: its trees compare floats, LightGBM's doubles."""
    convert = pytest.importorskip("onnxmltools", reason="onnxmltools is not installed").convert_lightgbm
    import lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    inputs = frame(3000)
    labels = (inputs["a"] * inputs["b"] > 0.1).astype(int).to_numpy()
    estimator = lightgbm.LGBMClassifier(n_estimators=60, verbose=-1, n_jobs=1).fit(inputs, labels)
    folder = save("lightgbm", estimator, tmp_path / "m", inputs, labels)
    trial = trial_of(folder)
    model = convert(estimator, initial_types=[("x", FloatTensorType([None, 5]))], zipmap=False)
    names = [output.name for output in model.graph.output]
    converted = Converted(
        "model.onnx", "float32", "index", "<f8", index=names[0], scores=names[1], labels=(0, 1), label_dtype="<i8",
        probabilities="rows",
    )  # fmt: skip
    floats = Candidate("onnx", model.SerializeToString(), converted, SINGLE)
    runner = equivalence.with_predictor(trial.native, floats.predictor())
    by_name = {one.name: equivalence.refusal(runner, [one], SINGLE, exact=True) for one in trial.groups}
    assert by_name["random rows"] == ""  # random rows do not show it
    assert by_name["rows at thresholds"].startswith("rows at thresholds: ")
    assert judged(trial, floats)
    doubles = candidates(trial.subject)[0][1]()
    assert judged(trial, doubles) == ""


def test_lightgbm_takes_tiny_numbers_for_zero(tmp_path):
    import lightgbm

    inputs = frame(600)
    inputs["a"] = np.where(inputs["a"] > 0.5, inputs["a"], np.where(inputs["a"] < -0.5, inputs["a"], 0.0))
    estimator = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=1).fit(inputs[["a"]], words(inputs))
    folder = save("lightgbm", estimator, tmp_path / "m", inputs[["a"]], words(inputs))
    trial = trial_of(folder)
    tiny = float(np.float32(1e-35))
    assert np.isin(tiny, np.abs(trial.subject.ensemble.thresholds()[:, 1]))
    assert judged(trial, candidates(trial.subject)[0][1]()) == ""


def test_a_refusal_the_model_does_not_make_is_a_difference(tmp_path):
    trial = trial_of(saved("logistic", tmp_path / "m"))
    right = candidates(trial.subject)[0][1]()
    assert right.converted.nan is not None and right.converted.inf is not None
    silent = replace(right, converted=replace(right.converted, nan=None, inf=None))
    assert "at nan: expected a refusal" in judged(trial, silent)
    other = replace(right, converted=replace(right.converted, nan=right.converted.inf))
    assert "expected a refusal" in judged(trial, other)
    labels = replace(right, converted=replace(right.converted, labels=(0, 2)))
    assert "expected the classes (0, 1), found (0, 2)" in judged(trial, labels)
