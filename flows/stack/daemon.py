"""``python -m flows.stack.daemon``: the stack's supervisor, detached by ``shipway up``."""

from __future__ import annotations

import logging
import os
import sys

from flows.release.line import every_target
from flows.stack.parts import OVERTAKEN, choose_servers, compose, own_gateway
from flows.stack.up import daemon_log
from infra.log_files import bound, open_log
from infra.processes import MARK, mark
from infra.settings import StackSettings, load_settings
from infra.stack import part_process
from infra.stack.home import prepare_home
from infra.stack.secrets import ensure_secrets
from infra.stack.state import take_lock
from infra.stack.supervisor import LOG_BYTES, Duty, Supervisor
from infra.targets.interface import TransientTargetError


def main() -> int:
    """Supervises until SIGTERM; 0 when everything has ended, OVERTAKEN when another supervisor owns the folder."""
    os.umask(0o077)  # of every part, flow and model server: what they keep is people's data
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = load_settings(os.environ)
    lock = take_lock(settings.stack)
    if lock is None:
        print(f"another supervisor runs at {settings.root}", file=sys.stderr)
        return OVERTAKEN
    with lock:
        supervise(settings)
    return 0


def supervise(settings: StackSettings) -> None:
    """Runs every part and model server of the stack at ``settings.root``; returns when all have ended."""
    os.environ[MARK] = mark(settings.root, "supervisor")  # of what it starts
    prepare_home(settings)
    servers = choose_servers(settings, os.environ)
    parts = compose(settings, servers, ensure_secrets(settings.stack))
    part_process.end(
        part_process.marked(settings.root, [part.name for part in parts if part.name != "worker"]), grace=2.0
    )
    gateway = own_gateway(settings)
    gateway.bootstrap()
    target = every_target(settings, servers.mlflow)
    try:
        target.restore()
    except TransientTargetError as away:  # an engine that is away; reconcile tries again
        logging.warning("%s", away)
    own = open_log(daemon_log(settings))
    supervisor = Supervisor(
        parts,
        home=settings.root,
        folder=settings.stack,
        external=servers.external,
        duties=[
            Duty("lease", gateway.lapse),
            Duty("log", lambda _: bound(own, daemon_log(settings), LOG_BYTES)),
        ],
        settings={
            **settings.environment(),
            "MLFLOW_TRACKING_URI": servers.mlflow,
            "PREFECT_API_URL": servers.prefect_api,
        },
    )
    try:
        supervisor.run()
    finally:
        try:
            target.stop_all()
        except TransientTargetError as away:
            logging.warning("%s", away)
        part_process.end(part_process.marked(settings.root), grace=2.0)


if __name__ == "__main__":
    sys.exit(main())
