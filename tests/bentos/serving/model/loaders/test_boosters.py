"""XGBoost and LightGBM: numbers equal to mlflow.pyfunc's, for native boosters and scikit-learn estimators."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from bentos.serving.model.interface import LoadError
from bentos.serving.model.runner import ModelRunner
from tests.bentos.saved import IGNORED, by_mlflow, numbers, save, target

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORED]


def library(name):
    """The library, or a skip that says which shared library is missing."""
    try:
        return pytest.importorskip(name, reason=f"the extra {name} is not installed")
    except OSError as error:
        if "libgomp" not in str(error):
            raise
        pytest.skip(f"{name} needs libgomp.so.1 of the system (Debian: libgomp1): {error}")


def holes(rows: int = 100):
    """Numbers with missing values, which boosters take."""
    frame = numbers(rows, seed=3)
    return frame.mask(np.random.default_rng(4).random(frame.shape) < 0.2)


def test_xgboost_booster(tmp_path):
    xgboost = library("xgboost")
    frame = numbers()
    model = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(frame, target(frame)), 5)
    folder = save("xgboost", model, tmp_path / "m", frame, np.zeros(2, np.float32))
    found = ModelRunner.load(folder).predict(holes(), probabilities=True)
    assert np.array_equal(found.values, by_mlflow(folder, holes()))
    assert found.probabilities is None


def test_xgboost_estimator_with_params(tmp_path):
    xgboost = library("xgboost")
    from mlflow.models import infer_signature

    frame = numbers()
    model = xgboost.XGBClassifier(n_estimators=5).fit(frame, target(frame))
    signature = infer_signature(frame, model.predict(frame), params={"output_margin": False, "unknown": 1})
    folder = save("xgboost", model, tmp_path / "m", frame, None, signature=signature)
    runner = ModelRunner.load(folder)
    for params in ({}, {"output_margin": True}):
        assert np.array_equal(runner.predict(holes(), params).values, by_mlflow(folder, holes(), params))
    found = runner.predict(holes(), probabilities=True)
    assert found.classes == (0, 1)
    assert np.array_equal(found.probabilities, model.predict_proba(holes()))


def test_xgboost_of_a_foreign_class_is_refused(tmp_path):
    xgboost = library("xgboost")
    frame = numbers()
    model = xgboost.XGBRegressor(n_estimators=2).fit(frame, target(frame))
    folder = save("xgboost", model, tmp_path / "m", frame, model.predict(frame))
    mlmodel = yaml.safe_load((folder / "MLmodel").read_text())
    mlmodel["flavors"]["xgboost"]["model_class"] = "os.system"
    (folder / "MLmodel").write_text(yaml.safe_dump(mlmodel))
    with pytest.raises(LoadError, match=r"model_class os\.system is not xgboost's"):
        ModelRunner.load(folder)


def test_lightgbm_booster(tmp_path):
    lightgbm = library("lightgbm")
    frame = numbers()
    settings = {"objective": "binary", "verbose": -1, "min_data_in_leaf": 5}
    model = lightgbm.train(settings, lightgbm.Dataset(frame, target(frame)), 5)
    folder = save("lightgbm", model, tmp_path / "m", frame, model.predict(frame))
    assert np.array_equal(ModelRunner.load(folder).predict(holes()).values, by_mlflow(folder, holes()))


@pytest.mark.parametrize("serialization", ["skops", "cloudpickle"])
def test_lightgbm_estimator(tmp_path, serialization):
    lightgbm = library("lightgbm")
    frame = numbers()
    model = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, min_child_samples=5).fit(frame, target(frame))
    folder = save("lightgbm", model, tmp_path / "m", frame, model.predict(frame), serialization_format=serialization)
    found = ModelRunner.load(folder).predict(holes(), probabilities=True)
    assert np.array_equal(found.values, by_mlflow(folder, holes()))
    assert np.array_equal(found.probabilities, model.predict_proba(holes()))
