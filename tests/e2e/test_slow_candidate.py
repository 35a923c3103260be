"""A slow honest model passes the shadow and the split of a real stack; nobody is answered by the baseline in its place."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e.stack import Stack
from tests.e2e.toy import QUICK, write_policy
from tests.e2e.traffic import Traffic

pytestmark = [pytest.mark.e2e, pytest.mark.long("slow"), pytest.mark.timeout(600)]
MODEL = "slow"
POLICY: dict[str, Any] = {
    **QUICK,
    "shadow": {"min_pairs": 30, "max_seconds": 90},
    "split": {"steps": [50], "min_requests": 20, "max_seconds": 90},
    "serving": {"workers": 4, "batching": "off"},
}
CODE = """
import sys
import mlflow, numpy, pandas
from mlflow.models import infer_signature

class Slow(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        import time
        if model_input["d"].iloc[0] > -50:  # what users send; a build that measures for a minute shows nothing here
            time.sleep(0.8 + 1.2 * (abs(model_input["a"].iloc[0]) % 1.0))
        return (model_input["a"] > 0).astype(int)

rows = pandas.DataFrame(numpy.random.default_rng(0).normal(size=(200, 4)), columns=list("abcd")).assign(d=-100.0)
for version in range(2):
    with mlflow.start_run():
        mlflow.pyfunc.log_model(
            name="model", python_model=Slow(), signature=infer_signature(rows, (rows.a > 0).astype(int)),
            input_example=rows.head(8), registered_model_name=sys.argv[1],
            pip_requirements=["mlflow", "pandas", "cloudpickle"],
        )
"""


@pytest.fixture(scope="module")
def released(stack: Stack) -> Stack:
    """Version 1 of a model that takes 0.8 to 2 s is live."""
    write_policy(stack, MODEL, POLICY)
    done = subprocess.run(
        [sys.executable, "-c", CODE, MODEL],
        env=stack.user_environ(),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run = stack.flow("promote-model", model=MODEL, version="1")
    assert run.message.startswith("PROMOTED"), run.said
    return stack


@contextmanager
def users(stack: Stack) -> Iterator[Traffic]:
    with Traffic(f"{stack.settings.gateway_url}/models/{MODEL}/invocations", rate=1.5) as traffic:
        yield traffic


def test_a_slow_honest_model_passes_shadow_and_split(released: Stack) -> None:
    with users(released) as traffic:
        run = released.flow("promote-model", model=MODEL, version="2")
    assert run.message.startswith("PROMOTED"), run.said
    assert traffic.failures == []
    assert traffic.fallbacks == {}
    assert traffic.versions["2"] >= 10
    (release,) = [one for one in released.ledger().releases(MODEL) if one.candidate == "2"]
    noted = release.facts["candidate_timeout.split-50"]
    assert 2.0 < float(noted.split()[0]) <= 8.0
    assert "beside the baseline's p99" in noted
    report = released.settings.reports / MODEL / release.run_id / "report.html"
    assert noted.partition(":")[0] in report.read_text()
