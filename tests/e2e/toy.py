"""A small real model for the tests, registered in as many versions as asked, and a policy that decides in seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import yaml

from tests.e2e.stack import Stack

QUICK: dict[str, Any] = {
    "shadow": {"min_pairs": 30, "max_seconds": 60},
    "split": {"steps": [50], "min_requests": 30, "max_seconds": 60},
    "metrics": {
        "error_rate": {"max_increase": 0.2},
        "latency": None,
        "disagreement": {"max_rate": 0.5},
        "labels": None,
        "drift": None,
        "input_schema": None,
    },
    "look_seconds": 0.5,
    "bake_seconds": 1,
    "lease_seconds": 10,
}
CODE = """
import sys
import mlflow, numpy, pandas
from mlflow.models import infer_signature
from sklearn.linear_model import LogisticRegression
generator = numpy.random.default_rng(0)
rows = pandas.DataFrame(generator.normal(size=(2000, 4)), columns=list("abcd"))
late = (rows.a + 0.5 * rows.b > 0).astype(int)
for version in range(int(sys.argv[2])):
    model = LogisticRegression(C=1.0 + version).fit(rows, late)
    with mlflow.start_run():
        mlflow.sklearn.log_model(
            model, name="model", signature=infer_signature(rows, model.predict(rows)),
            input_example=rows.head(20), registered_model_name=sys.argv[1],
        )
"""


def register_toy(stack: Stack, model: str, versions: int) -> None:
    """Registers *versions* versions of a logistic regression over the columns a, b, c, d, by MLflow's own client."""
    subprocess.run(
        [sys.executable, "-c", CODE, model, str(versions)],
        env=stack.user_environ(),
        check=True,
        capture_output=True,
        timeout=180,
    )


def write_policy(stack: Stack, model: str, values: dict[str, Any]) -> None:
    """The release policy of *model*, where the stack looks for it."""
    (stack.policies / f"{model}.yaml").write_text(yaml.safe_dump(values))


def model_of(stack: Stack, model: str) -> dict[str, Any]:
    """What `shipway status MODEL --json` says of it: aliases, plan (None without routes) and deployments."""
    found = json.loads(stack.run("status", model, "--json"))
    aliases = next((one["aliases"] for one in found["models"] if one["name"] == model), {})
    deployments = [one for one in found["deployments"] if one["model"] == model]
    return {"aliases": aliases, "plan": found["plans"].get(model), "deployments": deployments}
