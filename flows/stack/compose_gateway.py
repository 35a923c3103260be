"""``python -m flows.stack.compose_gateway``: the gateway in a container of its own; the stack's other parts lie elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from flows.stack.parts import own_gateway
from infra.settings import load_settings


def main() -> int:
    """Writes what Envoy starts from, the plans of before included, and runs Envoy; on SIGTERM it drains first."""
    gateway = own_gateway(load_settings(os.environ))
    gateway.bootstrap()
    envoy = subprocess.Popen(gateway.command())

    def end(*_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        gateway.drain()
        envoy.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    return envoy.wait()


if __name__ == "__main__":
    sys.exit(main())
