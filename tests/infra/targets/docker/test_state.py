"""What the engine says, and what it means for a deployment."""

import pytest

from infra.targets.docker.state import alive, judge
from infra.targets.interface import State


def container(status, *, policy=("always", 0), restarts=0, **state):
    return {
        "State": {"Status": status, "OOMKilled": False, "Error": "", "ExitCode": 0, **state},
        "HostConfig": {"RestartPolicy": {"Name": policy[0], "MaximumRetryCount": policy[1]}, "Memory": 0},
        "RestartCount": restarts,
    }


@pytest.mark.parametrize(
    ("found", "wanted", "answers", "state", "reason"),
    [
        (container("running"), "running", True, State.READY, ""),
        (container("running"), "running", False, State.STARTING, ""),
        (container("running"), "stopped", True, State.DRAINING, ""),
        (container("exited"), "stopped", False, State.DRAINING, "drained: its server has stopped"),
        (None, "stopped", False, State.DRAINING, "drained: its server has stopped"),
        (container("restarting", ExitCode=137), "running", True, State.STARTING, "the server exited with 137"),
        (container("paused"), "running", True, State.STARTING, "its container is paused"),
        (container("exited", OOMKilled=True, ExitCode=137), "running", True, State.FAILED, "was killed out of memory"),
        (
            container("created", Error="no such file"),
            "running",
            True,
            State.FAILED,
            "could not be started: no such file",
        ),
        (None, "running", True, State.FAILED, "`shipway up` or its next release starts it again"),
        (container("exited", ExitCode=3), "running", True, State.FAILED, "the server exited with 3"),
        (
            container("exited", ExitCode=1, policy=("on-failure", 2), restarts=2),
            "running",
            True,
            State.FAILED,
            "the server exited with 1, 3 times before it was ever ready",
        ),
    ],
)
def test_state_and_reason(found, wanted, answers, state, reason):
    judged, why = judge(found, wanted, lambda: answers)
    assert judged is state
    assert why.endswith(reason) and bool(why) == bool(reason)


@pytest.mark.parametrize(
    ("status", "lives"), [("running", True), ("restarting", True), ("paused", True), ("exited", False), ("dead", False)]
)
def test_alive(status, lives):
    assert alive(container(status)) is lives
    assert not alive(None)
