"""Who owns a release: a flow run and its process, found alive or dead."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from infra.processes import identity, runs

HEARTBEAT_SECONDS = 60.0  # an owner on another machine that said nothing for this long is dead


def this_owner(flow_run_id: str) -> dict[str, str]:
    """This process, as the ledger names it. ``identity`` keeps a reused pid from passing for the owner."""
    return {
        "flow_run_id": flow_run_id,
        "pid": str(os.getpid()),
        "identity": identity(os.getpid()) or "",
        "host": here(),
    }


def alive(owner: Mapping[str, str], heartbeat_at: float, now: float) -> bool:
    """Whether *owner* still runs: its very process on this machine, or a fresh heartbeat (unix seconds) from another."""
    if owner.get("host") != here():
        return now - heartbeat_at < HEARTBEAT_SECONDS
    return bool(owner.get("pid")) and runs(int(owner["pid"]), owner.get("identity"))


def here() -> str:
    """Where pids mean what they mean here: the host's name and, on Linux, its pid namespace (pid_namespaces(7)).

    Two containers may share a host name and see different processes.
    """
    try:
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()
