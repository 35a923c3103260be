"""scikit-learn: numbers equal to mlflow.pyfunc's, for every serialization and form of input."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml

from bentos.serving.model.interface import LoadError
from bentos.serving.model.runner import ModelRunner
from tests.bentos.saved import IGNORED, by_mlflow, logistic, numbers, save, target

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORED]


@pytest.mark.parametrize("serialization", ["skops", "cloudpickle", "pickle"])
def test_answers_as_mlflow_in_each_serialization(tmp_path, serialization):
    folder = logistic(tmp_path / "m", serialization_format=serialization)
    frame = numbers(200, seed=1)
    found = ModelRunner.load(folder).predict(frame, probabilities=True)
    assert np.array_equal(found.values, by_mlflow(folder, frame))
    assert found.classes == (0, 1)
    assert np.array_equal(found.probabilities.argmax(axis=1), found.values)


def test_predict_fn_named_at_log_time_is_the_answer(tmp_path):
    folder = logistic(tmp_path / "m", pyfunc_predict_fn="predict_proba")
    frame = numbers(20, seed=1)
    found = ModelRunner.load(folder).predict(frame)
    assert found.values.shape == (20, 2)
    assert np.array_equal(found.values, by_mlflow(folder, frame))
    assert found.probabilities is None


def test_pipeline_with_strings_and_nulls(tmp_path):
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"city": rng.choice(["aa", "bb", None], 80), "size": rng.random(80), "n": rng.integers(0, 9, 80)}
    )
    frame.loc[3, "size"] = np.nan
    encode = ColumnTransformer(
        [("city", OneHotEncoder(handle_unknown="ignore"), ["city"]), ("size", SimpleImputer(), ["size", "n"])]
    )
    model = make_pipeline(encode, RandomForestClassifier(5, random_state=0)).fit(frame, frame["n"] > 4)
    folder = save("sklearn", model, tmp_path / "m", frame, model.predict(frame), serialization_format="cloudpickle")
    found = ModelRunner.load(folder).predict(frame, probabilities=True)
    assert np.array_equal(found.values, by_mlflow(folder, frame))
    assert np.array_equal(found.probabilities, model.predict_proba(frame))
    table = {"n": frame["n"].tolist(), "city": frame["city"].tolist(), "size": [*frame["size"]], "other": ["x"] * 80}
    assert np.array_equal(ModelRunner.load(folder).predict(table).values, found.values)


def test_fitted_on_an_array_takes_tensors_and_columns_without_a_warning(tmp_path):
    from sklearn.linear_model import LinearRegression

    frame = numbers()
    model = LinearRegression().fit(frame.to_numpy(), frame["a"])
    tensors = save("sklearn", model, tmp_path / "t", frame.to_numpy(), model.predict(frame.to_numpy()))
    columns = save("sklearn", model, tmp_path / "c", frame, model.predict(frame.to_numpy()))
    wanted = by_mlflow(tensors, frame.to_numpy())
    assert np.array_equal(ModelRunner.load(tensors).predict(frame.to_numpy()).values, wanted)
    as_a_frame = np.asfortranarray(frame.to_numpy())  # the layout decides the last bit on some processors
    assert np.array_equal(ModelRunner.load(columns).predict(frame).values, model.predict(as_a_frame))


def test_probabilities_only_where_there_are_any(tmp_path):
    from sklearn.linear_model import LinearRegression

    frame = numbers()
    model = LinearRegression().fit(frame, target(frame))
    folder = save("sklearn", model, tmp_path / "m", frame, model.predict(frame))
    found = ModelRunner.load(folder).predict(frame, probabilities=True)
    assert found.probabilities is None
    assert found.classes is None


def test_a_damaged_file_is_a_load_error_that_names_it(tmp_path):
    folder = logistic(tmp_path / "m")
    (folder / "model.skops").write_bytes(b"not a zip")
    with pytest.raises(LoadError, match=r"sklearn model in .*m cannot be loaded: BadZipFile"):
        ModelRunner.load(folder)


def test_skops_refuses_types_that_were_not_trusted(tmp_path):
    from sklearn.ensemble import RandomForestClassifier

    frame = numbers()
    model = RandomForestClassifier(2, random_state=0).fit(frame, target(frame))
    trusted = ["sklearn.tree._tree.Tree", "numpy.dtype"]
    folder = save(
        "sklearn", model, tmp_path / "m", frame, model.predict(frame),
        serialization_format="skops", skops_trusted_types=trusted,
    )  # fmt: skip
    assert np.array_equal(ModelRunner.load(folder).predict(frame).values, by_mlflow(folder, frame))
    mlmodel = yaml.safe_load((folder / "MLmodel").read_text())
    mlmodel["flavors"]["sklearn"]["skops_trusted_types"] = None
    (folder / "MLmodel").write_text(yaml.safe_dump(mlmodel))
    with pytest.raises(LoadError, match=r"Untrusted|sklearn\.tree\._tree\.Tree"):
        ModelRunner.load(folder)


def test_code_logged_beside_the_model_is_found(tmp_path, monkeypatch):
    """Loaded in a process of its own, where the code's first home is gone."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "shipway_halver.py").write_text(
        "from sklearn.base import BaseEstimator\n"
        "class Halver(BaseEstimator):\n"
        "    def fit(self, X, y=None):\n        return self\n"
        "    def predict(self, X):\n        return X['a'].to_numpy() / 2\n"
    )
    monkeypatch.syspath_prepend(str(home))
    from shipway_halver import Halver

    folder = save(
        "sklearn", Halver(), tmp_path / "m", numbers(), numbers()["a"],
        code_paths=[str(home / "shipway_halver.py")], serialization_format="pickle",
    )  # fmt: skip
    shutil.rmtree(home)
    script = (
        "import sys; from pathlib import Path; from bentos.serving.model.runner import ModelRunner\n"
        f"print(ModelRunner.load(Path({str(folder)!r})).predict({{'a': [3.0], 'b': [0.0], 'c': [0.0]}}).values[0])\n"
        "assert 'mlflow' not in sys.modules and 'bentoml' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=".")
    assert done.stdout.strip() == "1.5"
