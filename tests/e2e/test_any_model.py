"""Any MLflow model with a signature: released to PROMOTE, and the same numbers online, in batch and in process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bentos.sealing.child import run_predict
from bentos.serving.environments.requirements import unsatisfied
from tests.e2e.stack import Run, Stack
from tests.e2e.toy import model_of

pytestmark = [pytest.mark.e2e, pytest.mark.long("models"), pytest.mark.timeout(1200)]
HERE = Path(__file__).parent
NAMES = (
    "old-sklearn",
    "skops",
    "pickled",
    "cloudpickled",
    "strings",
    "onnx",
    "xgboost",
    "lightgbm",
    "statsmodels",
    "params",
    "tensors",
)
AT_ONCE = 3  # releases under way together: different models do not wait for each other
OLD = ("scikit-learn==1.6.1", "numpy<2.3", "pandas<3", "mlflow-skinny", "cloudpickle")


@dataclass(frozen=True)
class Released:
    """A model after its release: the flow runs, the rows that were scored, and the author's own answers to them."""

    name: str
    promoted: Run
    scored: Run
    rows: pd.DataFrame
    expected: np.ndarray
    batch: Path
    rejects: Path

    @property
    def tensor(self) -> bool:
        """Whether the model takes one tensor, and not columns."""
        return list(self.rows.columns) == ["input"]


@pytest.fixture(scope="module")
def released(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Released]]:
    """Every model released and scored, as many at once as the machine takes."""
    folder = tmp_path_factory.mktemp("authors")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        registering = pool.submit(register, stack, folder)
        pool.submit(register_old, stack, folder / "old-sklearn").result()
        registering.result()
        ended = list(pool.map(lambda name: release(stack, name, folder / name), NAMES))
    for one in filter(None, ended):
        print(f"{one.name}: released in {one.promoted.seconds:.0f} s, scored in {one.scored.seconds:.0f} s")
    yield {one.name: one for one in ended if one}


def register(stack: Stack, folder: Path) -> None:
    """The models of authors whose libraries are the stack's own."""
    command = [sys.executable, str(HERE / "authors.py"), str(folder)]
    done = subprocess.run(command, env=stack.user_environ(), capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr


def register_old(stack: Stack, folder: Path) -> None:
    """The model of an author with an older scikit-learn, trained and saved in an environment of its own."""
    from mlflow import MlflowClient

    folder.mkdir()
    home = folder / "env"
    uv = Path(sys.executable).with_name("uv")
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, home],
        [uv, "pip", "install", "--quiet", "--python", home / "bin" / "python", *OLD],
        [home / "bin" / "python", HERE / "old_author.py", folder],
    ):
        done = subprocess.run(
            command, cwd=folder, env=stack.environ, capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode == 0, done.stderr
    client = MlflowClient(stack.settings.mlflow_url)
    run = client.create_run(client.create_experiment("old author"))
    client.log_artifacts(run.info.run_id, str(folder / "model"), "model")
    client.set_terminated(run.info.run_id)
    client.create_registered_model("old-sklearn")
    client.create_model_version("old-sklearn", f"runs:/{run.info.run_id}/model", run.info.run_id)
    pd.read_csv(folder / "rows.csv").to_parquet(folder / "rows.parquet", index=False)


def release(stack: Stack, name: str, folder: Path) -> Released | None:
    """promote-model, then batch-score; None where this machine lacks what the author's library needs."""
    if (folder / "skip").exists():
        return None
    promoted = stack.flow("promote-model", model=name, version=1)
    kept = json.loads((folder / "expected.json").read_text())
    scored, aside = folder / "scored.parquet", folder / "aside.parquet"
    run = stack.flow(
        "batch-score", model=name, input=str(folder / "rows.parquet"), output=str(scored), rejects=str(aside), probabilities=True,
    )  # fmt: skip
    expected = np.array(kept["answers"], dtype=object if kept["dtype"].startswith("str") else kept["dtype"])
    return Released(name, promoted, run, pd.read_parquet(folder / "rows.parquet"), expected, scored, aside)


@pytest.fixture(params=NAMES)
def one(request: pytest.FixtureRequest, released: dict[str, Released]) -> Released:
    """Each released model in turn."""
    if request.param not in released:
        pytest.skip(f"{request.param}: libgomp.so.1 is missing (Debian: libgomp1)")
    return released[request.param]


def test_is_promoted_as_the_first_version(one: Released, stack: Stack) -> None:
    assert one.promoted.state == "COMPLETED", one.promoted.said
    (found,) = stack.ledger().releases(one.name)
    assert (found.outcome, found.baseline, found.open) == ("PROMOTED", None, False), found.reason
    plan = stack.gateway().plan(one.name)
    assert plan is not None
    assert [(arm.version, arm.weight) for arm in plan.arms] == [("1", 100)]
    (deployment,) = [each for each in stack.target().list() if each.model == one.name]
    assert deployment.state.value == "ready"


def test_answers_equally_online_in_batch_and_in_process(one: Released, stack: Stack, tmp_path: Path) -> None:
    assert one.scored.state == "COMPLETED", one.scored.said
    answers = {
        "invocations": invocations(stack, one),
        "v2": infer(stack, one),
        "batch": answered(one.batch, one.expected),
        "in process": in_process(stack, one, tmp_path / "answers.parquet"),
    }
    for way, found in answers.items():
        assert found.shape == one.expected.shape, way
        assert np.array_equal(found, answers["in process"]), f"{way}: {found[:3]}, not {answers['in process'][:3]}"
    # the author's frame may lie in memory the other way round, which is the last bit of a sum
    ours, own = answers["in process"], one.expected
    near = ours == own if own.dtype.kind != "f" else np.isclose(ours, own, rtol=1e-13, atol=1e-15)
    assert near.all(), f"{ours[:3]}, the author's own: {own[:3]}"
    assert len(pd.read_parquet(one.rejects)) == 0


def invocations(stack: Stack, one: Released) -> np.ndarray:
    """MLflow's protocol, through the gateway."""
    frame = json.loads(one.rows.to_json(orient="split", index=False, double_precision=15))
    frame["data"] = one.rows.astype(object).to_numpy().tolist()  # pandas' JSON keeps 15 digits, a double has up to 17
    body = {"inputs": [nested(row) for row in one.rows["input"]]} if one.tensor else {"dataframe_split": frame}
    response = stack.post(f"/models/{one.name}/invocations", body)
    assert response.status_code == 200, response.text
    assert response.headers["x-shipway-version"] == "1"
    found = response.json()["predictions"]
    if isinstance(found, dict):
        (found,) = found.values()
    elif isinstance(found[0], dict):
        found = [next(iter(row.values())) for row in found]
    return alike(found, one.expected)


def infer(stack: Stack, one: Released) -> np.ndarray:
    """The Open Inference Protocol V2, one tensor a column, through the gateway."""
    kinds = {"f": "FP64", "i": "INT64", "O": "BYTES"}
    if one.tensor:
        data = np.array([nested(row) for row in one.rows["input"]], np.float32)
        inputs = [{"name": "input", "datatype": "FP32", "shape": list(data.shape), "data": data.ravel().tolist()}]
    else:
        inputs = [
            {"name": name, "datatype": kinds[column.dtype.kind], "shape": [len(column)], "data": column.tolist()}
            for name, column in one.rows.items()
        ]
    response = stack.post(f"/v2/models/{one.name}/infer", {"inputs": inputs})
    assert response.status_code == 200, response.text
    output = response.json()["outputs"][0]
    return alike(np.array(output["data"], dtype=object).reshape(output["shape"]).tolist(), one.expected)


def in_process(stack: Stack, one: Released, output: Path) -> np.ndarray:
    """A child process of the model's own environment, from the sealed bento that is deployed."""
    python, bento = runtime(stack, one.name)
    one.rows.to_parquet(output.with_name("rows.parquet"), index=False)
    run_predict(python, bento / "src", bento, output.with_name("rows.parquet"), output)
    return answered(output, one.expected)


def runtime(stack: Stack, model: str) -> tuple[Path, Path]:
    """The interpreter and the sealed bento of a model's deployment."""
    (deployment,) = [each for each in stack.target().list() if each.model == model]
    bento = stack.settings.bentos / deployment.bento_digest.removeprefix("sha256:")[:16]
    lock = json.loads((bento / "src" / "shipway.json").read_text())["lock_digest"]
    own = stack.settings.envs / lock.removeprefix("sha256:")[:16] / "bin" / "python"
    return own if own.exists() else Path(sys.executable), bento


def answered(path: Path, expected: np.ndarray) -> np.ndarray:
    """The first output in a Parquet file of answers."""
    frame = pd.read_parquet(path)
    taken = ("a", "b", "c", "city", "rooms", "size", "input")
    (name,) = [name for name in frame.columns if name not in taken and not name.startswith("probability_")]
    return alike(frame[name].tolist(), expected)


def alike(values: Any, expected: np.ndarray) -> np.ndarray:
    """Answers as an array of the author's type; numbers that do not fit it exactly stay apart."""
    array = np.array([nested(value) for value in values], dtype=object)
    if expected.dtype == object:
        return array
    exact = array.astype(np.float64)
    narrowed = exact.astype(expected.dtype)
    return narrowed if expected.dtype == np.float32 else np.where(narrowed == exact, narrowed, np.nan)


def nested(value: Any) -> Any:
    """Lists all the way down."""
    return [nested(item) for item in value] if isinstance(value, (list, np.ndarray)) else value


def test_an_older_scikit_learn_is_loaded_in_an_environment_of_its_own(
    released: dict[str, Released], stack: Stack
) -> None:
    _, bento = runtime(stack, "old-sklearn")
    assert json.loads((bento / "src" / "shipway.json").read_text())["runtime"] == "onnx"
    assert [one["runtime"] for one in model_of(stack, "old-sklearn")["deployments"]] == ["onnx"]
    assert " onnx " in stack.run("status", "old-sklearn", COLUMNS="200")
    assert "scikit-learn" not in (bento / "src" / "requirements.lock").read_text()
    assert unsatisfied(["scikit-learn==1.6.1"])
    code = "import sklearn, skl2onnx; print(sklearn.__version__)"
    pythons = [folder / "bin" / "python" for folder in stack.settings.envs.iterdir() if (folder / ".complete").exists()]
    said = [subprocess.run([python, "-c", code], capture_output=True, text=True, check=False) for python in pythons]
    assert [done.stdout for done in said if done.returncode == 0] == ["1.6.1\n"], "where it was converted and compared"
    others = {runtime(stack, name)[0] for name in released if name != "old-sklearn"}
    assert others == {Path(sys.executable)}


def test_probabilities_are_the_authors_own(released: dict[str, Released], stack: Stack, tmp_path: Path) -> None:
    kept = json.loads((released["old-sklearn"].batch.with_name("expected.json")).read_text())["probabilities"]
    batch = pd.read_parquet(released["old-sklearn"].batch)
    np.testing.assert_allclose(batch[["probability_0", "probability_1"]].to_numpy(), kept, rtol=1e-9)
    inputs = [
        {"name": name, "datatype": "FP64", "shape": [len(column)], "data": column.tolist()}
        for name, column in released["old-sklearn"].rows.items()
    ]
    body = {"inputs": inputs, "outputs": [{"name": "predict_proba"}]}
    (output,) = stack.post("/v2/models/old-sklearn/infer", body).json()["outputs"]
    answered = np.array(output["data"]).reshape(output["shape"])
    np.testing.assert_allclose(answered, kept, rtol=1e-9)
    assert answered.tolist() == batch[["probability_0", "probability_1"]].to_numpy().tolist(), "one runner"


def test_params_of_a_request_reach_the_model(released: dict[str, Released], stack: Stack) -> None:
    one = released["params"]
    given = {"factor": -0.5, "column": "c"}
    frame = {"columns": list(one.rows.columns), "data": one.rows.to_numpy().tolist()}
    wanted = (one.rows["c"] * -0.5).tolist()
    found = stack.post("/models/params/invocations", {"dataframe_split": frame, "params": given}).json()
    assert found["predictions"] == wanted
    inputs = [
        {"name": name, "datatype": "FP64", "shape": [len(column)], "data": column.tolist()}
        for name, column in one.rows.items()
    ]
    found = stack.post("/v2/models/params/infer", {"inputs": inputs, "parameters": given}).json()
    assert found["outputs"][0]["data"] == wanted
    refused = stack.post("/models/params/invocations", {"dataframe_split": frame, "params": {"factr": 1.0}})
    assert refused.status_code == 400
    assert "factr" in refused.json()["message"]
