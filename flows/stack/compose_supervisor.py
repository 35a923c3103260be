"""``python -m flows.stack.compose_supervisor``: what the embedded stack's supervisor does beside starting parts, in a container.

It ends lapsed leases, even with Prefect down; starts the model servers that should run; tells Prometheus where they are;
and ends them when it is ended itself, so that ``down`` leaves nothing of them.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bentos.serving.errors import ShipwayError
from flows.release.line import every_target
from flows.stack.parts import own_gateway
from infra.settings import load_settings

if TYPE_CHECKING:
    from infra.targets.interface import Deployment, Target

TICK_SECONDS = 0.5
DISCOVERY_SECONDS = 5.0
BEAT = Path(tempfile.gettempdir()) / "shipway-keeper"  # touched at every look; the health check asks for it

log = logging.getLogger("shipway.keeper")


def targets_of(deployments: Sequence[Deployment]) -> list[dict[str, object]]:
    """Model servers as Prometheus' file discovery takes them; those on sockets are out of its reach."""
    return [
        {
            "targets": [f"{one.address.host}:{one.address.port}"],
            "labels": {"deployment": one.name},  # model and version are in its metrics
        }
        for one in deployments
        if one.address.host is not None
    ]


def write_discovery(file: Path, deployments: Sequence[Deployment]) -> None:
    """Writes *file* by one rename, where it would say something new."""
    text = json.dumps(targets_of(deployments), indent=1, sort_keys=True)
    if file.exists() and file.read_text() == text:
        return
    scratch = file.with_name(f".{file.name}")
    scratch.write_text(text)
    scratch.chmod(0o644)  # Prometheus is another user
    scratch.replace(file)


def keep(stop: threading.Event, discovery: Path | None) -> None:
    """Does its duties until *stop*, then ends every model server. What fails is logged and done again."""
    settings = load_settings(os.environ)
    gateway = own_gateway(settings)
    target = every_target(settings, os.environ.get("MLFLOW_TRACKING_URI", ""))
    restored, looked = False, 0.0
    try:
        while not stop.is_set():
            BEAT.touch()
            try:
                gateway.lapse(time.time())
                restored = restored or _restore(target)
                if discovery is not None and time.monotonic() - looked >= DISCOVERY_SECONDS:
                    looked = time.monotonic()
                    write_discovery(discovery, target.list())
            except (ShipwayError, OSError) as error:
                log.warning("%s", error)
                stop.wait(2.0)
            stop.wait(TICK_SECONDS)
    finally:
        target.stop_all()


def _restore(target: Target) -> bool:
    for deployment in target.restore():
        log.info("started again: %s", deployment.name)
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    """Keeps until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m flows.stack.compose_supervisor", description=__doc__)
    parser.add_argument("--discovery", type=Path, help="file that tells Prometheus where the model servers are")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    keep(stop, chosen.discovery)


if __name__ == "__main__":
    main()
