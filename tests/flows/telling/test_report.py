"""The report of a closed release: where its links lead."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bentos.policy.release import ReleasePolicy
from flows.telling.report import publish
from flows.triggers.ledger_releases import LedgerReleases
from infra.receiver.releases import ReleasesAway
from infra.settings import StackSettings
from infra.stores.folder import FolderStore
from monitoring.interface import TransientMonitoringError
from monitoring.ledger.memory import MemoryLedger


def closed(ledger: MemoryLedger, model: str) -> Any:
    release = ledger.open(
        model, "2", baseline="1", policy=ReleasePolicy(), policy_source="defaults", digests={}, owner={"pid": "1"}
    )
    return ledger.close(release, "PROMOTED", "every gate passed")


@pytest.mark.parametrize(
    ("pages", "mlflow"), [({}, "http://mlflow:5000"), ({"mlflow_pages": "https://ml.example"}, "https://ml.example")]
)
def test_links_name_the_experiments_id_and_quote_the_model(tmp_path: Path, pages: dict[str, str], mlflow: str) -> None:
    ledger = MemoryLedger(tmp_path / "files")
    ledger.tracking_uri = "http://me:secret@mlflow:5000"
    closed(ledger, "another")
    release = closed(ledger, "a (b)")
    settings = StackSettings(home=tmp_path / "home", receiver_port=1234, **pages)  # type: ignore[arg-type]
    store = FolderStore(tmp_path / "reports")
    line = cast(Any, SimpleNamespace(scratch=tmp_path / "scratch", ledger=ledger, settings=settings, store=store))
    drift = line.scratch / release.run_id / "drift"
    drift.mkdir(parents=True)
    (drift / "shadow.html").write_text("<p>drift")
    text, links = publish(line, release)
    base = f"http://127.0.0.1:1234/reports/a%20%28b%29/{release.run_id}"
    assert links == {
        "mlflow run": f"{mlflow}/#/experiments/{release.experiment_id}/runs/{release.run_id}",
        "report": f"{base}/report.html",
        "drift shadow": f"{base}/drift-shadow.html",
    }
    kept = [stored.key for stored in store.list()]
    assert kept == [f"a (b)/{release.run_id}/{name}" for name in ("drift-shadow.html", "report.html")]
    page = (store.folder / kept[1]).read_text()
    assert all(f"]({url})" in text and f'href="{url}"' in page for url in links.values())
    assert "secret" not in text + page


def test_the_index_reads_the_ledger_and_knows_when_it_is_away(tmp_path: Path) -> None:
    ledger = MemoryLedger(tmp_path)
    first, second = closed(ledger, "a"), closed(ledger, "b")
    releases = LedgerReleases(ledger, "http://m")
    assert [(row.model, row.run_id) for row in releases.newest(10)] == [("b", second.run_id), ("a", first.run_id)]
    (only,) = releases.newest(10, "a")
    assert (only.outcome, only.page) == (
        "PROMOTED",
        f"http://m/#/experiments/{first.experiment_id}/runs/{first.run_id}",
    )
    assert releases.newest(10, "*") == [] and releases.newest(10, "none") == []
    ledger.memory.away = TransientMonitoringError("MLflow is away")
    with pytest.raises(ReleasesAway, match="MLflow is away"):
        releases.newest(10)
