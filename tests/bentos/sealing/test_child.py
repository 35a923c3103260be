"""Prediction in a child process of another Python, from a copy of our code as a sealed bento has it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bentos.children.run import ChildError, child_env
from bentos.sealing.child import run_batch, run_predict
from bentos.serving.model.runner import ModelRunner
from tests.bentos.saved import IGNORED, logistic, numbers, save

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORED]
PYTHON = Path(sys.executable)


@pytest.fixture(scope="module")
def bento(tmp_path_factory):
    """A sealed bento's layout: our code beside a model that prints while it predicts."""
    from sklearn.base import BaseEstimator

    class Loud(BaseEstimator):
        def predict(self, frame):
            import os
            import time

            print("the model's own print")
            if (frame["a"] > 8).any():
                time.sleep(60)
            if (frame["a"] > 5).any():
                os._exit(3)
            if (frame["a"] > 2).any():
                raise ValueError("a is over 2")
            return frame["a"].to_numpy() * 2

    folder = tmp_path_factory.mktemp("child")
    model = save(
        "sklearn", Loud(), folder / "b/src/model", numbers(), numbers()["a"], serialization_format="cloudpickle"
    )
    shutil.copytree("bentos", model.parent / "bentos", ignore=shutil.ignore_patterns("__pycache__"))
    (model.parent / "shipway.json").write_text('{"model": "loud", "version": "1"}')
    return folder / "b"


def files(folder):
    """Every file below a folder with its size and time of change."""
    return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def test_predict_and_batch_answer_alike_and_leave_the_bento_untouched(bento, tmp_path):
    before = files(bento)
    frame = numbers(50, seed=9)
    source, output, rejects = tmp_path / "in.parquet", tmp_path / "deep" / "out.parquet", tmp_path / "rejects.parquet"
    frame.to_parquet(source)
    run_predict(PYTHON, bento / "src", bento, source, output)
    assert pd.read_parquet(output)["prediction"].tolist() == (frame["a"] * 2).tolist()
    counts = run_batch(PYTHON, bento / "src", bento, source, output, rejects, chunk=20)
    assert (counts.rows, counts.predicted, counts.rejected) == (50, 50, 0)
    assert pd.read_parquet(output)["prediction"].tolist() == (frame["a"] * 2).tolist()
    counts = run_batch(PYTHON, bento / "src", bento, source, output, rejects, chunk=20, processes=2)
    assert (counts.rows, counts.predicted, counts.rejected) == (50, 50, 0)
    assert pd.read_parquet(output)["prediction"].tolist() == (frame["a"] * 2).tolist()
    run_batch(PYTHON, bento / "src", bento, source, f"{tmp_path}/parts.d/", f"{tmp_path}/parts.bad/", chunk=20)
    assert (
        pd.read_parquet(tmp_path / "parts.d" / "part-00000.parquet")["prediction"].tolist() == (frame["a"] * 2).tolist()
    )
    assert len(pd.read_parquet(tmp_path / "parts.bad")) == 0
    assert files(bento) == before


def test_a_killed_process_of_a_batch_is_an_error_and_leaves_nothing(bento, tmp_path):
    frame = numbers(50, seed=9)
    frame.loc[30, "a"] = 6.0
    source = tmp_path / "in.parquet"
    frame.to_parquet(source)
    with pytest.raises(ChildError, match=r"(?s)exit 2\): .*BatchError: process \d+ .* exit 3 at rows 20 to 40"):
        run_batch(PYTHON, bento / "src", bento, source, tmp_path / "o", tmp_path / "r", chunk=20, processes=2)
    assert [p.name for p in tmp_path.iterdir()] == ["in.parquet"]


def test_named_probabilities_equal_the_runners(tmp_path):
    folder = logistic(tmp_path / "m")
    frame = numbers(30, seed=2)
    frame.to_parquet(tmp_path / "in.parquet")
    run_predict(
        PYTHON, Path.cwd(), folder, tmp_path / "in.parquet", tmp_path / "out.parquet", chunk=12, probabilities=True
    )
    found = pd.read_parquet(tmp_path / "out.parquet")
    wanted = ModelRunner.load(folder).predict(frame, probabilities=True)
    assert np.array_equal(found["prediction"], wanted.values)
    np.testing.assert_allclose(found[["probability_0", "probability_1"]], wanted.probabilities, rtol=1e-12)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3.0, r"(?s)exit 2\): .*PredictError: model loud/1 raised ValueError: a is over 2"),
        (6.0, r"exit 3\)"),
        ("x", r"exit 2\): InputError: column 'a': found string 'x' in row 0, expected double"),
    ],
)
def test_a_failing_child_is_an_error_with_its_last_words(bento, tmp_path, value, words):
    pd.DataFrame({"a": [value], "b": [0.0], "c": [0.0]}).to_parquet(tmp_path / "in.parquet")
    with pytest.raises(ChildError, match=words):
        run_predict(PYTHON, bento / "src", bento, tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert [p.name for p in tmp_path.iterdir()] == ["in.parquet"]


def test_a_child_that_takes_too_long_is_ended(bento, tmp_path):
    pd.DataFrame({"a": [9.0], "b": [0.0], "c": [0.0]}).to_parquet(tmp_path / "in.parquet")
    began = time.monotonic()
    with pytest.raises(ChildError, match="took longer than 4 s and was ended"):
        run_predict(PYTHON, bento / "src", bento, tmp_path / "in.parquet", tmp_path / "out.parquet", timeout=4)
    assert time.monotonic() - began < 30


def test_a_python_that_is_not_there_is_named(bento, tmp_path):
    with pytest.raises(ChildError, match="/nowhere/python could not be started"):
        run_predict(Path("/nowhere/python"), bento / "src", bento, tmp_path / "i", tmp_path / "o")


def test_the_childs_environment_holds_nothing_of_the_workers(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    monkeypatch.setenv("PREFECT_API_KEY", "secret")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = child_env(Path("/code"))
    assert "secret" not in found.values()
    assert found["PYTHONPATH"] == "/code"
    assert found["OMP_NUM_THREADS"] == "1"
    assert found["PATH"] == os.environ["PATH"]
