"""The choice of a runtime: whatever is chosen answers as the model does, and refuses what the model refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bentos.runtimes import choose as choosing
from bentos.runtimes import equivalence, rows, trees
from bentos.runtimes.choose import choose
from bentos.runtimes.rows import Maker, Spread
from bentos.serving.inputs.signature import InputError
from bentos.serving.model import latency_profile
from bentos.serving.model.loaders.converted import ConvertedPredictor
from bentos.serving.model.profile import FILE, Profile
from bentos.serving.model.runner import ModelRunner
from tests.bentos.runtimes.models import KINDS, frame, saved
from tests.bentos.saved import IGNORED, save

pytestmark = [pytest.mark.usefixtures("soon"), *(pytest.mark.filterwarnings(line) for line in IGNORED)]


def sealed(model: Path, folder: Path, runtime: str = "auto") -> tuple[dict, ModelRunner]:
    """What was chosen for the artifact folder, and the runner of a bento that has it."""
    made = folder / "src" / "runtime"
    made.mkdir(parents=True)
    found = choose(model, made, runtime, None)
    (made / FILE).write_text(json.dumps(found))
    shutil.copytree(model, folder / "src" / "model")
    seal = {"model": "m", "version": "1", "runtime": found["runtime"]}
    (folder / "src" / "shipway.json").write_text(json.dumps(seal))
    return found, ModelRunner.load(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Kind → its artifact folder, what was chosen for it, and the runner; each made once."""
    kept: dict[str, tuple] = {}

    def make(kind: str):
        if kind not in kept:
            folder = tmp_path_factory.mktemp("kind")
            kept[kind] = (saved(kind, folder / "m"), *sealed(folder / "m", folder / "b"))
        return kept[kind]

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_the_chosen_runtime_answers_as_the_model(kind, made):
    model, found, runner = made(kind)
    native = ModelRunner.load(model)
    assert found["runtime"] in ("onnx", "gtil"), found["candidates"]
    assert found["reason"].startswith(found["runtime"])
    assert sorted(runner.profile.latency) == [1, 8, 32, 100]
    rng = np.random.default_rng(99)  # rows that the gate did not see
    estimator = getattr(native.predictor, "estimator", None) or native.predictor.model
    ensemble = trees.read(estimator)
    maker = Maker.of(native.plan)
    drawn = [frame(500, seed=98).to_numpy()]
    if ensemble is not None:
        spread = Spread(np.zeros(5), np.full(5, 2.0))
        drawn.append(rows.at_splits(ensemble.splits(rng, 200), spread, rng))
    data = maker.rows(np.concatenate(drawn))
    wanted = native.answer(data, {}, probabilities=True)
    exact = wanted.values.dtype.kind != "f"
    for asked in (data, data.slice(0, 1), data.slice(3, 11)):
        had = runner.answer(asked, {}, probabilities=True)
        assert not equivalence.difference(
            native.answer(asked, {}, probabilities=True), had, asked, found["tolerance"], exact=exact
        )
        assert np.array_equal(runner.answer(asked, {}).values, had.values)
    assert had.classes == wanted.classes


@pytest.mark.parametrize("kind", ["logistic", "scaled", "forest", "histograms", "lightgbm", "booster"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39, 1.7e308])
def test_what_the_model_refuses_is_refused_in_its_words(kind, value, made):
    model, _, runner = made(kind)
    native = ModelRunner.load(model)
    inputs = frame(3, seed=1)
    inputs.loc[1, "c"] = value
    data = native.plan.coerce(inputs)
    wanted, had = equivalence.group("", native, data).native, latency_profile.answered(runner, data)
    if isinstance(wanted, str):
        assert had == wanted.replace(str(native.folder), "m/1")
        with pytest.raises(Exception, match=r"refuses|raised"):
            runner.predict(inputs)
    else:
        assert not equivalence.difference(wanted, had, data, 1e-9, exact=wanted.values.dtype.kind != "f")


def test_many_rows_are_the_models_own_where_that_is_sooner_done_and_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(choosing, "BULK_GAIN", 0.0)  # whatever it is measured to be
    forest = saved("forest", tmp_path / "forest")
    found, online = sealed(forest, tmp_path / "b")
    assert (found["runtime"], found["bulk"]) == ("onnx", True)
    assert isinstance(online.predictor, ConvertedPredictor)
    batch = ModelRunner.load(tmp_path / "b", bulk=True)
    assert not isinstance(batch.predictor, ConvertedPredictor)
    data = online.plan.coerce(frame(3_000, seed=97))
    assert latency_profile.bits_equal(
        batch.answer(data, {}, probabilities=True), online.answer(data, {}, probabilities=True)
    )
    monkeypatch.setattr(choosing, "BULK_GAIN", 1e9)
    assert not sealed(forest, tmp_path / "slow")[0]["bulk"]
    monkeypatch.setattr(choosing, "BULK_GAIN", 0.0)
    monkeypatch.setattr(equivalence, "same_bits", lambda *_: "not the same")
    assert not sealed(forest, tmp_path / "other")[0]["bulk"]


def test_predict_fn_and_columns_of_several_types(tmp_path):
    from sklearn.ensemble import RandomForestClassifier

    rng = np.random.default_rng(0)
    inputs = frame(300).assign(
        b=rng.integers(-(2**40), 2**40, 300), c=rng.integers(0, 9, 300).astype(np.int32), d=rng.random(300) > 0.5
    )
    labels = (inputs["a"] + inputs["b"] / 2**40 > 0).map({True: 7, False: 3}).to_numpy()
    estimator = RandomForestClassifier(12, random_state=0).fit(inputs, labels)
    options = {"serialization_format": "pickle", "input_example": inputs.head(20)}
    model = save("sklearn", estimator, tmp_path / "m", inputs, labels, pyfunc_predict_fn="predict_proba", **options)
    found, runner = sealed(model, tmp_path / "b")
    assert found["runtime"] != "native", found["candidates"]
    assert np.array_equal(runner.predict(inputs).values, estimator.predict_proba(inputs))
    model = save("sklearn", estimator, tmp_path / "m2", inputs, labels, **options)
    _, runner = sealed(model, tmp_path / "b2")
    answer = runner.predict(inputs, probabilities=True)
    assert np.array_equal(answer.values, estimator.predict(inputs))
    assert answer.values.dtype == estimator.predict(inputs).dtype
    assert answer.classes == (3, 7)


def test_a_matrix_is_an_input_too(tmp_path):
    from sklearn.linear_model import LogisticRegression

    inputs = frame().to_numpy()
    estimator = LogisticRegression().fit(inputs, inputs[:, 0] > 0)
    model = save("sklearn", estimator, tmp_path / "m", inputs, estimator.predict(inputs), serialization_format="pickle")
    found, runner = sealed(model, tmp_path / "b")
    assert found["runtime"] == "onnx"
    assert np.array_equal(runner.predict(inputs).values, estimator.predict(inputs))


def test_native_and_what_cannot_be_converted_are_measured_too(tmp_path):
    model = saved("logistic", tmp_path / "m")
    found, runner = sealed(model, tmp_path / "b", "native")
    assert (found["runtime"], found["candidates"], found["array"]) == ("native", [], True)
    assert found["reason"] == "the policy asks for native"
    assert runner.profile.array
    assert set(runner.profile.latency) == {1, 8, 32, 100}
    inputs = frame(50, seed=5)
    assert np.array_equal(runner.predict(inputs).values, ModelRunner.load(model).predict(inputs).values)
    loaded = "import sys\nfrom pathlib import Path\nfrom bentos.serving.model.runner import ModelRunner\n"
    ask = f"print('pandas' in sys.modules or ModelRunner.load(Path({str(tmp_path / 'b')!r})).predict({inputs.to_dict('list')!r}).values.tolist())"
    done = subprocess.run([sys.executable, "-c", loaded + ask], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]  # over arrays, no pandas is imported
    assert json.loads(done.stdout) == runner.predict(inputs).values.tolist()

    text = frame().assign(a="x")
    from sklearn.dummy import DummyClassifier

    dummy = DummyClassifier().fit(text, np.arange(400) % 2)
    other = save(
        "sklearn", dummy, tmp_path / "m2", text, dummy.predict(text), input_example=text.head(9),
        serialization_format="pickle",
    )  # fmt: skip
    found, _ = sealed(other, tmp_path / "b2")
    assert found["runtime"] == "native"
    assert "not all columns of numbers" in found["reason"]
    assert found["rowwise"] is True and found["latency"]["1"] > 0

    found, runner = sealed(model, tmp_path / "b3", "pyfunc")
    assert (found["runtime"], runner.flavor) == ("pyfunc", "python_function")
    assert found["latency"]["1"] > 0


def test_rows_that_change_one_another_are_not_joined(tmp_path):
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Relative(ClassifierMixin, BaseEstimator):
        """Answers whether a row is above the mean of the rows that it came with."""

        def fit(self, inputs, labels):
            self.classes_ = np.array([0, 1])
            return self

        def predict(self, inputs):
            first = np.asarray(inputs)[:, 0]
            return (first > first.mean()).astype(int)

    estimator = Relative().fit(None, None)
    model = save(
        "sklearn", estimator, tmp_path / "m", frame(), estimator.predict(frame()), serialization_format="cloudpickle"
    )
    found, runner = sealed(model, tmp_path / "b")
    assert (found["runtime"], found["rowwise"], runner.profile.rowwise) == ("native", False, False)


def test_a_damaged_runtime_is_named(tmp_path):
    from bentos.serving.model.interface import LoadError

    _, _ = sealed(saved("linear", tmp_path / "m"), tmp_path / "b")
    file = tmp_path / "b" / "src" / "runtime" / "model.onnx"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(LoadError, match=r"onnx runtime in .*model\.onnx cannot be loaded"):
        ModelRunner.load(tmp_path / "b")
    (file.parent / FILE).write_text("{}")
    with pytest.raises(LoadError, match=r"runtime\.json cannot be read"):
        Profile.read(file.parent)
    with pytest.raises((LoadError, InputError)):
        ModelRunner.load(tmp_path / "b")
