"""The runtime of a version: made once in a child, kept by its inputs, and native with a reason where it cannot be made."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from bentos.policy.build import BuildPolicy
from bentos.sealing.bento import PermanentBuildError, build, load_sealed
from bentos.sealing.child import run_predict
from bentos.sealing.lock import lock_for
from bentos.sealing.runtime import Chosen, choose_runtime
from bentos.serving.environments.environment import Environments, PermanentEnvironmentError
from bentos.serving.fetch.artifact_tree import tree_digest
from bentos.serving.model.runner import ModelRunner
from bentos.versions.model_version import ModelVersion
from tests.bentos.runtimes.models import frame, saved
from tests.bentos.saved import IGNORED

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORED]


class Here(Environments):
    """The stack's own environment for everything; *without* the converters where told so."""

    without = False

    def lock(self, requirements, *, converters=(), **options):
        if converters and self.without:
            raise PermanentEnvironmentError("onnx and numpy cannot be met together")
        return super().lock(requirements, converters=converters, **options)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return saved("histograms", tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """The folder of choices that tests share."""
    return tmp_path_factory.mktemp("runtimes")


def version(model: Path) -> ModelVersion:
    pins = tuple(f"{name}=={metadata.version(name)}" for name in ("scikit-learn", "numpy"))
    return ModelVersion("m", "1", None, "models:/m", "sklearn", tree_digest(model), pins, None)


def chosen(model: Path, folder: Path, policy: BuildPolicy | None = None, **options) -> Chosen:
    environments = Here(folder / "envs")
    environments.without = options.pop("without", False)
    policy = policy or BuildPolicy()
    lock = lock_for(environments, version(model), policy)
    return choose_runtime(version(model), model, policy, lock, environments, folder / "kept", **options)


def test_equal_inputs_give_the_same_bento_and_the_sealed_one_answers(model, kept, tmp_path):
    first = chosen(model, kept)
    said = json.loads((first.folder / "runtime.json").read_text())
    assert (first.runtime, first.reason) == (said["runtime"], said["reason"]) and first.runtime == "onnx"
    assert said["rows_compared"] > 5_000 and said["tolerance"] == 1e-9
    assert [one["runtime"] for one in said["candidates"]] == ["native", "onnx", "gtil"]
    names = {line.split("==")[0] for line in first.lock.text.splitlines()}
    assert {"onnxruntime", "numpy", "uvicorn"} <= names
    assert not names & {"scikit-learn", "mlflow", "pandas", "onnx", "treelite"}

    again = chosen(model, kept)
    assert again == first  # not measured again
    one = build(version(model), model, BuildPolicy(), first.lock, tmp_path / "a", runtime=first.folder)
    other = build(version(model), model, BuildPolicy(), again.lock, tmp_path / "b", runtime=again.folder)
    assert one.digest == other.digest
    assert one.facts["runtime"] == "onnx" and one.facts["runtime_digest"] == tree_digest(one.source / "runtime")

    rows, answers = tmp_path / "rows.parquet", tmp_path / "answers.parquet"
    frame(200, seed=7).to_parquet(rows)
    run_predict(Path(sys.executable), one.source, one.path, rows, answers, probabilities=True)
    import pandas as pd

    wanted = ModelRunner.load(model).predict(frame(200, seed=7), probabilities=True)
    found = pd.read_parquet(answers)
    assert found["prediction"].tolist() == wanted.values.tolist()
    assert np.allclose(found["probability_low"], wanted.probabilities[:, wanted.classes.index("low")], atol=1e-12)

    (one.source / "runtime" / "model.onnx").write_bytes(b"other")
    with pytest.raises(PermanentBuildError, match="runtime_digest is sha256"):
        load_sealed(one.path)


def test_the_policy_turns_conversions_off(model, kept):
    native = chosen(model, kept, BuildPolicy(runtime="native"))
    assert (native.runtime, native.reason) == ("native", "the policy asks for native")
    assert "scikit-learn" in native.lock.text


def test_without_an_environment_for_the_converters_the_model_answers(model, kept):
    found = chosen(model, kept, without=True)
    assert found.runtime == "native"
    assert "no environment with the converters can be made: onnx and numpy cannot be met together" in found.reason
    assert json.loads((found.folder / "runtime.json").read_text())["latency"]["1"] > 0  # it is measured all the same
    assert chosen(model, kept).runtime == "onnx"


def test_a_child_that_fails_or_takes_too_long_leaves_native(model, tmp_path):
    slow = chosen(model, tmp_path / "slow", timeout=0.05)
    assert slow.runtime == "native" and "took longer than 0.05 s" in slow.reason
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in model.iterdir():
        if file.is_file():
            (broken / file.name).write_bytes(file.read_bytes() if file.suffix != ".pkl" else b"no pickle")
    failed = chosen(broken, tmp_path / "failed")
    assert failed.runtime == "native" and "LoadError" in failed.reason
    assert sorted(path.name for path in failed.folder.iterdir()) == ["runtime.json"]
