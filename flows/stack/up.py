"""``shipway up``: checks, starts the supervisor, and waits until every part has answered."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from flows.stack.down import take_down
from flows.stack.parts import OVERTAKEN, ROOT, Servers, choose_servers, compose
from infra.log_files import open_log
from infra.settings import StackSettings
from infra.stack import part_process
from infra.stack.home import prepare_home
from infra.stack.part import PartState, PartStatus, StackError
from infra.stack.ports import check_ports
from infra.stack.secrets import ensure_secrets
from infra.stack.state import StackState, read_state, take_lock
from infra.stack.stores import check_stores

MAX_FAILURES = 3  # ends of one part before `up` gives up
_POLL_SECONDS = 0.1


class _OvertakenError(StackError):
    """Another ``up`` at the same time was first."""


Watch = Callable[[StackState], None]


def bring_up(settings: StackSettings, watch: Watch = lambda _: None) -> tuple[StackState, bool]:
    """The stack at ``settings.root`` once every part is up, and whether this call started it.

    *watch* is told every state on the way. Raises StackError or SettingsError before anything is started where the
    folder, a port or a variable is in the way; StackError with the end of the log when a part does not come up, after
    everything has been ended again.
    """
    prepare_home(settings)
    lock = take_lock(settings.stack)
    if lock is None:  # it runs, or another `up` is just starting it
        return _await(settings, None, watch), False
    with lock:
        servers = choose_servers(settings, os.environ)
        parts = compose(settings, servers, ensure_secrets(settings.stack))
        part_process.end(
            part_process.marked(settings.root, [part.name for part in parts if part.name != "worker"]), grace=2.0
        )
        check_ports(parts, settings.host)
        check_stores(settings, own_mlflow=servers.own_mlflow, own_prefect=servers.own_prefect)
        (settings.stack / "state.json").unlink(missing_ok=True)
    daemon = _detach(settings, servers)
    try:
        return _await(settings, daemon, watch), True
    except _OvertakenError:
        return _await(settings, None, watch), False
    except (StackError, KeyboardInterrupt):
        take_down(settings)
        raise


def _detach(settings: StackSettings, servers: Servers) -> subprocess.Popen[bytes]:
    """Starts the supervisor in a session of its own."""
    environment = {**os.environ, **settings.environment()}
    environment |= {"MLFLOW_TRACKING_URI": servers.mlflow, "PREFECT_API_URL": servers.prefect_api}
    with open_log(daemon_log(settings)) as log:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.stack.daemon"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def daemon_log(settings: StackSettings) -> Path:
    """Where the supervisor writes."""
    return settings.logs / "supervisor.log"


def _await(settings: StackSettings, daemon: subprocess.Popen[bytes] | None, watch: Watch) -> StackState:
    deadline = time.monotonic() + settings.start_seconds
    while True:
        state = read_state(settings.stack)
        if daemon is not None and daemon.poll() == OVERTAKEN:
            raise _OvertakenError(f"another 'shipway up' was first at {settings.root}")
        if daemon is not None and daemon.poll() is not None:
            raise StackError(
                f"the supervisor ended with {part_process.describe_exit(daemon.returncode)}. The end of its log "
                f"{daemon_log(settings)}:\n{part_process.tail(daemon_log(settings))}"
            )
        if state is not None and state.running and (daemon is None or state.pid == daemon.pid):
            watch(state)
            if state.up:
                return state
            for part in state.parts:
                if part.state == PartState.BACKOFF and part.restarts + 1 >= MAX_FAILURES and not part.optional:
                    raise StackError(_why(part, f"ended {part.restarts + 1} times"))
        if time.monotonic() > deadline:
            raise StackError(_late(state, settings))
        time.sleep(_POLL_SECONDS)


def _late(state: StackState | None, settings: StackSettings) -> str:
    limit = f"not up within {settings.start_seconds:g} s (SHIPWAY_START_SECONDS)"
    late = [part for part in state.parts if not part.up and not part.optional] if state is not None else []
    if not late:
        return f"the supervisor is {limit}. The end of its log:\n{part_process.tail(daemon_log(settings))}"
    late.sort(key=lambda part: part.state == PartState.WAITING)  # who waits is late because of another
    return _why(late[0], limit)


def _why(part: PartStatus, what: str) -> str:
    last = f", the last time with {part.last_exit}" if part.last_exit else ""
    return f"{part.name} {what}{last}. The end of its log {part.log}:\n{part_process.tail(Path(part.log))}"
