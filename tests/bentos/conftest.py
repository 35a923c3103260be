"""Models registered in the session's MLflow server, as their authors would: in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_AUTHOR = """
import json, sys, mlflow, numpy, pandas, sklearn
from mlflow.models import infer_signature
from sklearn.linear_model import LogisticRegression

uri, folder = sys.argv[1:]
mlflow.set_tracking_uri(uri)
mlflow.set_experiment("authors")
frame = pandas.DataFrame({"a": [0.0, 1.0, 2.0, 3.0], "b": [1.0, 0.0, 1.0, 0.5]})
target = numpy.array([0, 1, 0, 1])
model = LogisticRegression().fit(frame, target)
signature = infer_signature(frame, target)
tensor = LogisticRegression().fit(frame.to_numpy(), target)
frame.to_parquet(f"{folder}/reference.parquet")
frame.head(3).to_csv(f"{folder}/mine.csv", index=False)
runs = {}

def register(name, model, artifacts=(), **options):
    with mlflow.start_run() as run:
        # pinned here: inferring the pins starts a process per model
        pins = [f"scikit-learn=={sklearn.__version__}", f"numpy=={numpy.__version__}"]
        mlflow.sklearn.log_model(model, name="model", registered_model_name=name, pip_requirements=pins, **options)
        for path in artifacts:
            mlflow.log_artifact(path, "shipway")
        runs[name] = run.info.run_id

both = [f"{folder}/reference.parquet", f"{folder}/mine.csv"]
register("with-reference", model, both, signature=signature, input_example=frame.head(2))
register("with-example", model, signature=signature, input_example=frame.head(2), serialization_format="pickle")
register("with-example", model, signature=signature, serialization_format="cloudpickle")
tensors = infer_signature(frame.to_numpy(), target)
register("tensor", tensor, signature=tensors, input_example=frame.to_numpy()[:3], serialization_format="pickle")
register("no-signature", model, serialization_format="pickle")
register("spaced name", model, signature=signature, serialization_format="pickle")
print(json.dumps(runs))
"""


@pytest.fixture(scope="session")
def registered(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Model name → run id of its last version: with-reference 1, with-example 1 and 2, tensor 1, no-signature 1."""
    folder: Path = tmp_path_factory.mktemp("author")
    done = subprocess.run(
        [sys.executable, "-c", _AUTHOR, mlflow_server, str(folder)],
        cwd=folder,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_TRACKING_URI": mlflow_server},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    runs: dict[str, str] = json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{")))
    return runs
