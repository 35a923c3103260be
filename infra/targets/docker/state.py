"""What the engine says of a container, as the state of its deployment. Pure, but for the question whether it is ready."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Mapping
from typing import Any

from infra.targets import readiness
from infra.targets.docker.container import PORT
from infra.targets.interface import Address, State

PROBE_SECONDS = 0.5
ALIVE = ("running", "restarting", "paused")


def alive(container: Mapping[str, Any] | None) -> bool:
    """Whether the engine keeps a container up."""
    return container is not None and container["State"]["Status"] in ALIVE


def judge(container: Mapping[str, Any] | None, wanted: str, ready: Callable[[], bool]) -> tuple[State, str]:
    """The state of a deployment and its reason. *container* as the engine inspects it, None where it has none."""
    if wanted == "stopped":
        return State.DRAINING, "" if alive(container) else "drained: its server has stopped"
    if container is None:
        return State.FAILED, "the engine does not have its container; `shipway up` or its next release starts it again"
    if container["State"]["Status"] == "paused":
        return State.STARTING, "its container is paused"
    if container["State"]["Status"] == "restarting":
        return State.STARTING, end_of(container)
    if alive(container):
        return (State.READY, "") if ready() else (State.STARTING, "")
    policy, restarts = container["HostConfig"]["RestartPolicy"], container["RestartCount"]
    gave_up = policy["Name"] == "on-failure" and 0 < policy["MaximumRetryCount"] <= restarts
    return State.FAILED, end_of(container) + (f", {restarts + 1} times before it was ever ready" if gave_up else "")


def end_of(container: Mapping[str, Any]) -> str:
    """How its server ended last."""
    state = container["State"]
    if state["OOMKilled"]:
        limit = container["HostConfig"]["Memory"] // (1024 * 1024)
        return (
            f"the server was killed out of memory (limit {limit} MiB)"
            if limit
            else "the server was killed out of memory"
        )
    if state["Error"]:
        return f"the server could not be started: {state['Error']}"
    return f"the server exited with {state['ExitCode']}"


def answers_ready(container: Mapping[str, Any], address: Address, network: str | None) -> bool:
    """Whether the server answers GET /readyz with 200.

    In a network without a published port its own address there is asked: the name is known in that network only.
    """
    if address.uds is not None:
        return readiness.answers_ready(address.uds, PROBE_SECONDS)
    host, port = address.host or "", address.port or PORT
    joined = container["NetworkSettings"]["Networks"].get(network)
    if port == PORT and joined is not None and not container["HostConfig"]["PortBindings"]:
        host = joined["IPAddress"]
    connection = http.client.HTTPConnection(host, port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
