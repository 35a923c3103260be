"""``python -m flows.triggers.webhook``: registers the stack's webhook in MLflow, once."""

from __future__ import annotations

import os

from flows.stack.parts import choose_servers, webhook_name
from infra.mlflow_rest import MlflowRest
from infra.receiver.webhooks import PATH, register
from infra.settings import load_settings
from infra.stack.secrets import ensure_secrets


def main() -> None:
    """Ends with 0 once MLflow knows the webhook; what MLflow says otherwise ends the process with 1."""
    settings = load_settings(os.environ)
    rest = MlflowRest(choose_servers(settings, os.environ).mlflow, timeout=30)
    identifier = register(
        rest, settings.receiver_url + PATH, ensure_secrets(settings.stack).webhook, webhook_name(settings)
    )
    print(f"webhook {identifier} sends alias events to {settings.receiver_url}{PATH}")


if __name__ == "__main__":
    main()
