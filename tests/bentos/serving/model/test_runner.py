"""ModelRunner: loading from folders and sealed bentos, warming, and what may leak out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import yaml

from bentos.runtimes.choose import choose
from bentos.serving.environments.requirements import needed
from bentos.serving.fetch.artifact_tree import flavor_of
from bentos.serving.inputs.rows import InputRows
from bentos.serving.inputs.signature import InputError, SignatureError, read_mlmodel
from bentos.serving.model.interface import LoadError, PredictError
from bentos.serving.model.runner import ModelRunner
from tests.bentos.saved import IGNORED, by_mlflow, logistic, numbers, save, target

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORED]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return logistic(tmp_path_factory.mktemp("runner") / "m")


def seal(folder, bento, **facts):
    """A sealed bento's layout around a model folder."""
    shutil.copytree(folder, bento / "src" / "model")
    (bento / "src" / "shipway.json").write_text(json.dumps(facts))
    return bento


def test_a_sealed_bento_answers_as_its_artifact_folder(folder, tmp_path):
    bento = seal(folder, tmp_path / "b", model="flights", version="3", flavor="sklearn", runtime="native")
    sealed, bare = ModelRunner.load(bento), ModelRunner.load(folder)
    assert (sealed.model, sealed.version, sealed.flavor) == ("flights", "3", "sklearn")
    assert (bare.model, bare.version) == ("", "")
    assert np.array_equal(sealed.predict(numbers()).values, bare.predict(numbers()).values)


def test_pyfunc_runtime_is_honoured(folder, tmp_path):
    bento = seal(folder, tmp_path / "b", model="flights", version="3", runtime="pyfunc")
    runner = ModelRunner.load(bento)
    assert runner.flavor == "python_function"
    assert np.array_equal(runner.predict(numbers()).values, ModelRunner.load(folder).predict(numbers()).values)


@pytest.mark.parametrize("text", ["{", "[]", '{"model": "m"}'])
def test_a_damaged_seal_is_named(tmp_path, text):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "shipway.json").write_text(text)
    with pytest.raises(LoadError, match=r"shipway\.json .*Build the bento again"):
        ModelRunner.load(tmp_path)


def test_folders_without_a_model_or_signature_are_refused(folder, tmp_path):
    with pytest.raises(SignatureError, match="holds no MLmodel"):
        ModelRunner.load(tmp_path)
    bare = tmp_path / "m"
    shutil.copytree(folder, bare)
    lines = (bare / "MLmodel").read_text().split("signature:")[0]
    (bare / "MLmodel").write_text(lines)
    with pytest.raises(SignatureError, match="has no signature"):
        ModelRunner.load(bare)


def test_flavors_that_nothing_loads_are_named(folder, tmp_path):
    odd = tmp_path / "m"
    shutil.copytree(folder, odd)
    text = (odd / "MLmodel").read_text()
    (odd / "MLmodel").write_text("flavors:\n  spark: {}\n" + text[text.index("signature:") :])
    with pytest.raises(LoadError, match=r"flavors \['spark'\]"):
        ModelRunner.load(odd)


def test_a_loader_module_of_its_own_decides_for_every_part(folder, tmp_path):
    own = logistic(tmp_path / "m", serialization_format="pickle")
    (own / "code").mkdir()
    (own / "code" / "opposite.py").write_text(OPPOSITE)
    mlmodel = yaml.safe_load((own / "MLmodel").read_text())
    mlmodel["flavors"]["python_function"] |= {"loader_module": "opposite", "data": "model.pkl", "code": "code"}
    (own / "MLmodel").write_text(yaml.safe_dump(mlmodel))
    runner = ModelRunner.load(own)
    assert runner.flavor == flavor_of(read_mlmodel(own)) == "python_function"
    assert runner.predict(numbers()).values.tolist() == np.asarray(by_mlflow(own, numbers())).tolist()
    assert (
        runner.predict(numbers()).values.tolist() == (1 - ModelRunner.load(folder).predict(numbers()).values).tolist()
    )
    found = choose(own, tmp_path, "auto", None)
    assert found["runtime"] == "pyfunc"
    assert any(line.startswith("mlflow") for line in needed((), flavor=runner.flavor))


OPPOSITE = """
import pathlib, pickle

class Opposite:
    def __init__(self, model):
        self.model = model

    def predict(self, frame):
        return 1 - self.model.predict(frame)

def _load_pyfunc(path):
    return Opposite(pickle.loads(pathlib.Path(path).read_bytes()))
"""


def test_the_input_example_warms(folder):
    runner = ModelRunner.load(folder)
    assert list(runner.example()) == ["a", "b", "c"]
    assert runner.warm()


def test_warming_without_an_example_may_fail_but_an_example_may_not(tmp_path):
    from sklearn.base import BaseEstimator

    class Picky(BaseEstimator):
        def predict(self, frame):
            if (frame["a"] == 0).any():
                raise ZeroDivisionError("a is zero")
            return 1 / frame["a"].to_numpy()

    frame = numbers()
    plain = save("sklearn", Picky(), tmp_path / "p", frame, frame["a"], serialization_format="cloudpickle")
    assert ModelRunner.load(plain).warm() is False
    with_example = tmp_path / "e"
    shutil.copytree(plain, with_example)
    example = {"dataframe_split": {"columns": ["a", "b", "c"], "data": [[0.0, 1.0, 1.0]]}}
    (with_example / "serving_input_example.json").write_text(json.dumps(example))
    with pytest.raises(PredictError, match="ZeroDivisionError: a is zero"):
        ModelRunner.load(with_example).warm()


class Broken:
    def predict(self, data, params, *, probabilities=False):
        raise ZeroDivisionError


def test_errors_are_the_inputs_or_the_models(folder):
    runner = ModelRunner.load(folder)
    with pytest.raises(InputError, match="column 'a': missing"):
        runner.predict({"b": [1.0], "c": [1.0]})
    with pytest.raises(InputError, match="unknown params"):
        runner.predict(numbers(), {"k": 1})
    with pytest.raises(InputError, match=r"refuses a missing, infinite or very large value: Input X contains NaN"):
        runner.predict({"a": [None], "b": [1.0], "c": [1.0]})
    broken = replace(runner, predictor=Broken())
    with pytest.raises(PredictError, match=r"model .*m raised ZeroDivisionError"):
        broken.predict(numbers())


def test_a_joined_batch_answers_each_part_as_alone(folder):
    runner = ModelRunner.load(folder)
    parts = [runner.plan.coerce(numbers(n, seed=n)) for n in (1, 4, 2)]
    whole = runner.answer(InputRows.join(parts), {}, probabilities=True)
    start = 0
    for part in parts:
        alone = runner.answer(part, {}, probabilities=True)
        piece = whole.slice(start, start + part.rows)
        assert np.array_equal(piece.values, alone.values)
        np.testing.assert_allclose(piece.probabilities, alone.probabilities, rtol=1e-12)
        start += part.rows


def test_a_native_model_is_served_without_mlflow_or_bentoml(folder):
    script = (
        "import sys; from pathlib import Path; from bentos.serving.model.runner import ModelRunner\n"
        f"r = ModelRunner.load(Path({str(folder)!r})); r.warm()\n"
        "print([m for m in ('mlflow', 'bentoml', 'prefect', 'fastapi') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_regression_answers_numbers(tmp_path):
    from sklearn.ensemble import GradientBoostingRegressor

    frame = numbers()
    model = GradientBoostingRegressor(n_estimators=5).fit(frame, target(frame))
    saved = save("sklearn", model, tmp_path / "m", frame, model.predict(frame), serialization_format="pickle")
    assert np.array_equal(ModelRunner.load(saved).predict(frame).values, model.predict(frame))
