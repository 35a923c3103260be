"""What starts a release: the command line, an alias through its webhook, and reconcile where the webhook was lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from infra.mlflow_rest import MlflowRest
from monitoring.ledger.ledger import Release
from tests.e2e.stack import Stack, until
from tests.e2e.toy import QUICK, model_of, register_toy, write_policy
from tests.e2e.traffic import Traffic

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]
MODEL = "triggered"
PREFECT = Path(sys.executable).with_name("prefect")


def prefect(stack: Stack, *arguments: str) -> str:
    """Prefect's own command line in a shell that has `shipway env`."""
    done = subprocess.run(
        [PREFECT, *arguments], env=stack.user_environ(), capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def set_alias(stack: Stack, alias: str, version: str) -> None:
    rest = MlflowRest(stack.settings.mlflow_url)
    rest.call("POST", "/registered-models/alias", name=MODEL, alias=alias, version=version)


def newest(stack: Stack) -> Release | None:
    found = stack.ledger().releases(MODEL, limit=1)
    return found[0] if found else None


def closed(stack: Stack, candidate: str, count: int) -> Release:
    """The newest release once *count* are closed; it must be of *candidate*."""
    until(lambda: sum(not release.open for release in stack.ledger().releases(MODEL)) >= count, seconds=150)
    release = newest(stack)
    assert release is not None and release.candidate == candidate
    return release


@pytest.fixture(scope="module")
def traffic(stack: Stack) -> Iterator[Traffic]:
    register_toy(stack, MODEL, versions=3)
    write_policy(stack, MODEL, QUICK)
    prefect(stack, "deployment", "run", "promote-model/local", "-p", f"model={MODEL}", "-p", "version=1", "--watch")
    with Traffic(f"{stack.settings.gateway_url}/models/{MODEL}/invocations", rate=30) as sent:
        yield sent
    assert sent.failures == [], f"{len(sent.failures)} of {sent.requests}: {sent.failures[:3]}"


def test_the_command_line_releases_a_first_version(stack: Stack, traffic: Traffic) -> None:
    release = closed(stack, "1", 1)
    assert (release.outcome, release.baseline) == ("PROMOTED", None)
    assert model_of(stack, MODEL)["aliases"] == {"champion": "1"}


def test_an_alias_releases_by_webhook_and_a_person_approves(stack: Stack, traffic: Traffic) -> None:
    write_policy(stack, MODEL, {**QUICK, "approval": True})
    set_alias(stack, "challenger", "2")
    until(lambda: (r := newest(stack)) is not None and r.open and "waiting_until" in r.facts, seconds=150)
    waiting = newest(stack)
    assert waiting is not None
    arms = model_of(stack, MODEL)["plan"]["arms"]
    assert [(arm["version"], arm["weight"]) for arm in arms] == [("1", 100)], (
        "nobody is on trial while a person decides"
    )
    run = waiting.owner["flow_run_id"]
    until(lambda: _state(stack, run) == "PAUSED")
    stack.run("resume", run, "maybe", code=1)
    stack.run("resume", run, "promote", "--reason", "looks good")
    release = closed(stack, "2", 2)
    assert (release.outcome, release.reason) == ("PROMOTED", "a person approved it")
    assert release.facts["approval_reason"] == "looks good"
    assert model_of(stack, MODEL)["aliases"] == {"champion": "2", "previous": "1"}


def test_reconcile_alone_releases_when_the_receiver_was_down(stack: Stack, traffic: Traffic) -> None:
    write_policy(stack, MODEL, QUICK)
    receiver = stack.part("receiver")["pid"]
    os.kill(receiver, signal.SIGSTOP)
    try:
        set_alias(stack, "challenger", "3")
        stack.flow("reconcile", model=MODEL)
        release = closed(stack, "3", 3)
    finally:
        os.kill(receiver, signal.SIGCONT)
    assert release.outcome == "PROMOTED"
    assert len(stack.ledger().releases(MODEL)) == 3, "the late webhook started nothing a second time"


def test_rollback_is_one_route_change(stack: Stack, traffic: Traffic) -> None:
    run = stack.flow("rollback-model", model=MODEL, reason="a test")
    assert run.state == "COMPLETED", run.said
    release = closed(stack, "2", 4)
    assert (release.outcome, release.reason) == ("PROMOTED", "a test")
    assert model_of(stack, MODEL)["aliases"] == {"champion": "2"}
    again = stack.flow("rollback-model", model=MODEL)
    assert again.state == "FAILED" and "no alias 'previous'" in again.said


def test_a_champion_moved_by_hand_goes_through_the_same_doors(stack: Stack, traffic: Traffic) -> None:
    set_alias(stack, "champion", "1")
    run = stack.flow("reconcile", model=MODEL)
    assert run.state == "COMPLETED", run.said
    release = closed(stack, "1", 5)
    assert release.outcome == "PROMOTED" and release.facts["kind"] == "manual"
    plan = model_of(stack, MODEL)["plan"]
    assert [(arm["version"], arm["weight"]) for arm in plan["arms"]] == [("1", 100)]


def test_the_report_and_the_records_stand(stack: Stack, traffic: Traffic) -> None:
    assert "5 releases, 0 findings" in stack.run("verify", MODEL)
    release = newest(stack)
    assert release is not None
    page = httpx.get(f"{stack.settings.receiver_url}/reports/{MODEL}/{release.run_id}/report.html", trust_env=False)
    assert page.status_code == 200 and "PROMOTED" in page.text


def _state(stack: Stack, run: str) -> str:
    return str(httpx.get(f"{stack.settings.prefect_api_url}/flow_runs/{run}", trust_env=False).json()["state_type"])
