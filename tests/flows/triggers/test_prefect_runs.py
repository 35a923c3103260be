"""PrefectRuns against a real MLflow; Prefect's own part is driven in tests/e2e/test_stack.py."""

from __future__ import annotations

import asyncio
import socket
import time
import uuid

import pytest

from flows.triggers.prefect_runs import PrefectRuns
from infra.mlflow_rest import MlflowRest
from infra.receiver.flow_runs import RunsUnavailable


@pytest.fixture
def nobody() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def record(mlflow: str, experiment: str, version: str, status: str | None, begun: float | None = None) -> None:
    """One run of the ledger, *begun* at that unix time; *status* None leaves it running."""
    rest = MlflowRest(mlflow)
    run = rest.call(
        "POST",
        "/runs/create",
        experiment_id=experiment,
        start_time=round((begun or time.time()) * 1000),
        tags=[{"key": "shipway.candidate", "value": version}],
    )
    if status is not None:
        rest.call("POST", "/runs/update", run_id=run["run"]["info"]["run_id"], status=status)


def test_the_key_counts_the_ended_releases_of_the_version(mlflow_server, nobody):
    model = f"m-{uuid.uuid4().hex[:8]}"
    runs = PrefectRuns(nobody, mlflow_server)
    assert runs.key(model, "2") == f"promote:{model}:2:0"
    experiment = MlflowRest(mlflow_server).call("POST", "/experiments/create", name=f"releases/{model}")[
        "experiment_id"
    ]
    record(mlflow_server, experiment, "2", None)
    record(mlflow_server, experiment, "1", "FINISHED")
    assert runs.key(model, "2") == f"promote:{model}:2:0"
    record(mlflow_server, experiment, "2", "FINISHED")
    record(mlflow_server, experiment, "2", "KILLED")
    assert runs.key(model, "2") == f"promote:{model}:2:2"
    assert runs.key(model, "1") == f"promote:{model}:1:1"


def test_a_late_webhook_means_the_release_that_answered_it_meanwhile(mlflow_server, nobody):
    model = f"m-{uuid.uuid4().hex[:8]}"
    runs = PrefectRuns(nobody, mlflow_server)
    asked_at = time.time()
    experiment = MlflowRest(mlflow_server).call("POST", "/experiments/create", name=f"releases/{model}")[
        "experiment_id"
    ]
    record(mlflow_server, experiment, "2", "FINISHED", begun=asked_at + 5)  # reconcile's, say
    assert runs.key(model, "2", asked_at) == f"promote:{model}:2:0"
    assert runs.key(model, "2", asked_at + 60) == runs.key(model, "2") == f"promote:{model}:2:1"


def test_prefect_away_is_told_as_such(mlflow_server, nobody):
    runs = PrefectRuns(f"{nobody}/api", mlflow_server)
    with pytest.raises(RunsUnavailable, match=r"Prefect at .* no answer.*shipway status"):
        asyncio.run(runs.start("m", "1", time.time()))


def test_mlflow_away_is_told_as_such(nobody):
    with pytest.raises(RunsUnavailable, match=r"release of m/1: MLflow at .* does not answer.*shipway status"):
        PrefectRuns(f"{nobody}/api", nobody).start_now("m", "1")


def test_a_deployment_that_is_not_there_yet_is_unavailable(mlflow_server):
    # MLflow answers 404 under Prefect's path just as Prefect does for an unknown deployment
    with pytest.raises(RunsUnavailable, match="Is promote-model/local deployed"):
        PrefectRuns(f"{mlflow_server}/api", mlflow_server).start_now("m", "1")
