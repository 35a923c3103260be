"""``python -m flows.stack.compose_gateway``: the gateway in a container of its own; the stack's other parts lie elsewhere."""

from __future__ import annotations

import os

from flows.stack.parts import own_gateway
from infra.settings import load_settings


def main() -> None:
    """Writes what Envoy starts from, the plans of before included, and becomes Envoy."""
    gateway = own_gateway(load_settings(os.environ))
    gateway.bootstrap()
    command = gateway.command()
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
