"""``python -m flows.triggers.receiver``: the receiver with Prefect behind it."""

from __future__ import annotations

import logging
import os

from flows.stack.parts import choose_servers
from flows.triggers.ledger_releases import LedgerReleases
from flows.triggers.prefect_runs import PrefectRuns
from infra.receiver.late_labels import LabelLog
from infra.receiver.receiver import create_app
from infra.settings import load_settings
from infra.stack.secrets import ensure_secrets
from infra.stores.configured import report_store
from monitoring.ledger.ledger import Ledger, MlflowFiles
from monitoring.ledger.tracking import MlflowRuns

_MLFLOW_SECONDS = 10.0  # the index does not wait longer for an answer


def main() -> None:
    """Serves until SIGTERM."""
    import uvicorn

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = load_settings(os.environ)
    servers = choose_servers(settings, os.environ)
    files = settings.root / "releases" / "files"
    ledger = Ledger(
        servers.mlflow, files, runs=MlflowRuns(servers.mlflow, files=MlflowFiles(files), timeout=_MLFLOW_SECONDS)
    )
    app = create_app(
        runs=PrefectRuns(servers.prefect_api, servers.mlflow),
        secret=ensure_secrets(settings.stack).webhook,
        reports=report_store(settings),
        releases=LedgerReleases(ledger, settings.mlflow_pages or servers.mlflow),
        labels=LabelLog(settings.labels),
    )
    uvicorn.run(
        app, host=settings.host, port=settings.receiver_port, access_log=False, log_level="warning", lifespan="off"
    )


if __name__ == "__main__":
    main()
