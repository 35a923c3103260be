"""The index of releases, as a browser gets it from the receiver."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from infra.pages import report_path, run_page
from infra.receiver.late_labels import LabelLog
from infra.receiver.receiver import create_app
from infra.receiver.releases import ReleaseRow, ReleasesAway
from infra.stores.folder import FolderStore

HOSTILE = '</td><script>alert(1)</script>"><img src=x onerror=alert(2)>'


@dataclass
class Kept:
    """Releases in memory; ``away`` is raised while it is set."""

    rows: list[ReleaseRow] = field(default_factory=list)
    away: ReleasesAway | None = None

    def newest(self, limit: int, model: str | None = None) -> list[ReleaseRow]:
        if self.away is not None:
            raise self.away
        return [row for row in self.rows if model in (None, row.model)][:limit]


def row(model: str, number: int, **values: Any) -> ReleaseRow:
    run_id = f"{number:032x}"
    known = {
        "model": model,
        "version": str(number),
        "attempt": 1,
        "outcome": "PROMOTED",
        "reason": "every gate passed",
        "opened_at": 1_700_000_000.0 + number,
        "closed_at": 1_700_000_060.0 + number,
        "run_id": run_id,
        "page": run_page("http://mlflow:1", "3", run_id),
    }
    return ReleaseRow(**{**known, **values})


class Door:
    """The receiver's app over *releases* and a folder of reports."""

    def __init__(self, folder: Path, releases: Kept) -> None:
        self.store = FolderStore(folder / "reports")
        self.app = create_app(
            runs=cast(Any, None), secret="s", reports=self.store, releases=releases, labels=LabelLog(folder / "labels")
        )
        self._page = folder / "page"
        self._page.write_text("<h1>a report")

    def keep(self, one: ReleaseRow) -> None:
        self.store.put(f"{one.model}/{one.run_id}/report.html", self._page)

    def get(self, path: str, **values: Any) -> httpx.Response:
        async def go() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as client:
                return await client.get(path, **values)

        return asyncio.run(go())


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def door(tmp_path: Path, kept: Kept) -> Door:
    return Door(tmp_path, kept)


def test_releases_stand_by_model_with_their_report_and_their_run(door, kept):
    kept.rows = [
        row("wine", 9, outcome="", reason="", closed_at=None, attempt=2),
        row("flights", 2),
        row("wine", 4, outcome="ROLLED_BACK", reason="split: errors"),
    ]
    for one in kept.rows[1:]:
        door.keep(one)
    answer = door.get("/reports")
    assert answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    page = answer.text
    assert page.index(">flights<") < page.index(">wine<")
    assert 'class="word OPEN">OPEN<' in page and "9, attempt 2" in page and "opened 2023-11-14 22:13:29 UTC" in page
    assert 'class="word ROLLED_BACK">ROLLED_BACK<' in page and "split: errors" in page
    assert "closed 2023-11-14 22:14:22 UTC" in page
    for one in kept.rows:
        assert f'href="http://mlflow:1/#/experiments/3/runs/{one.run_id}"' in page
        address = report_path(one.model, one.run_id)
        assert (f'href="{address}"' in page) == (one.outcome != ""), "a report that is not there has no link"
        if one.outcome:
            assert door.get(f"/{address}").text == "<h1>a report"


def test_an_empty_ledger_has_a_page_that_says_so(door):
    answer = door.get("/reports")
    assert answer.status_code == 200 and "No release yet" in answer.text


@pytest.mark.parametrize("path", ["/", "/reports/"])
def test_what_people_type_leads_to_the_index(door, path):
    answer = door.get(path, follow_redirects=True)
    assert (answer.status_code, answer.url.path) == (200, "/reports")


def test_a_thousand_releases_are_shown_quickly_the_newest_and_each_models_own(door, kept):
    kept.rows = [row(f"model-{number % 7}", number) for number in range(1000, 0, -1)]
    for one in kept.rows[:150]:
        door.keep(one)
    began = time.monotonic()
    page = door.get("/reports").text
    assert time.monotonic() - began < 3
    assert page.count(">MLflow run<") == 200 and page.count(">report<") == 150 and "the newest 200" in page
    own = door.get("/reports?model=model-3").text
    assert own.count(">MLflow run<") == sum(one.model == "model-3" for one in kept.rows) and "the newest" not in own


def test_mlflow_away_leaves_the_reports_and_says_so(door, kept):
    door.keep(row("flights", 2))
    kept.away = ReleasesAway("MLflow at http://mlflow:1 did not answer.")
    answer = door.get("/reports")
    assert answer.status_code == 200 and "MLflow at http://mlflow:1 did not answer." in answer.text
    assert f'href="{report_path("flights", row("flights", 2).run_id)}"' in answer.text


def test_a_store_that_cannot_be_read_leaves_the_releases_and_says_so(door, kept):
    kept.rows = [row("flights", 2)]
    door.store.folder.parent.joinpath("reports").write_text("a file where the folder should be")
    answer = door.get("/reports")
    assert answer.status_code == 200 and ">MLflow run<" in answer.text and ">report<" not in answer.text


def test_what_strangers_wrote_is_text(door, kept):
    kept.rows = [row(HOSTILE, 2, reason=HOSTILE, version=HOSTILE)]
    page = door.get("/reports").text
    assert "<script" not in page and "<img" not in page and "&lt;script&gt;alert(1)" in page
    assert "<script" not in door.get("/reports", params={"model": HOSTILE}).text
