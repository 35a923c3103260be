"""``/reports``: the releases by model, each with its report and its run in MLflow."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from anyio.to_thread import run_sync
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from infra.pages import report_path
from infra.receiver.releases import ReleaseRow, Releases, ReleasesAway
from infra.stores.interface import Store, StoreError

log = logging.getLogger(__name__)

NEWEST = 200  # releases on one page
REPORT = "report.html"
_PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined
)


@dataclass(frozen=True)
class _Line:
    """One row of the page: a release, or a report whose release is not known now. Empty: there is none."""

    version: str
    outcome: str
    reason: str
    when: str
    report: str
    run: str


class Index:
    """Answers GET with the index, as far as what it is made of can be asked; ``?model=`` shows one model."""

    def __init__(self, releases: Releases, reports: Store) -> None:
        self._releases = releases
        self._reports = reports

    async def answer(self, request: Request) -> Response:
        """200, also where MLflow or the store is away: the page says so."""
        return HTMLResponse(await run_sync(self._page, request.query_params.get("model") or None))

    async def elsewhere(self, request: Request) -> Response:
        """Leads to the index: relative, so that it holds behind a proxy with a prefix."""
        return RedirectResponse("../reports" if request.url.path.endswith("/reports/") else "reports")

    def _page(self, model: str | None) -> str:
        problems, rows, kept = [], list[ReleaseRow](), set[tuple[str, str]]()
        try:
            rows = self._releases.newest(NEWEST + 1, model)
        except ReleasesAway as away:
            problems.append(f"{away} Below are the reports alone.")
        try:
            kept = self._kept(model)
        except StoreError as error:
            log.warning("%s", error)
            problems.append("The store of the reports cannot be read; the receiver's log says why.")
        found: dict[str, list[_Line]] = {}
        for row in rows[:NEWEST]:
            found.setdefault(row.model, []).append(_line(row, reported=(row.model, row.run_id) in kept))
        if problems and not rows:
            for name, run_id in sorted(kept)[:NEWEST]:
                found.setdefault(name, []).append(_Line("", "", "", "", report_path(name, run_id), ""))
        return _PAGES.get_template("index.html.j2").render(
            models=sorted((name, f"reports?model={quote(name, safe='')}", lines) for name, lines in found.items()),
            model=model,
            more=len(rows) > NEWEST,
            newest=NEWEST,
            problems=problems,
        )

    def _kept(self, model: str | None) -> set[tuple[str, str]]:
        """Model and run of every report in the store."""
        prefix = "" if model is None else f"{model}/"
        return set(_reported(stored.key for stored in self._reports.list(prefix)))


def _reported(keys: Iterable[str]) -> Iterable[tuple[str, str]]:
    for key in keys:
        match key.split("/"):
            case [model, run_id, name] if name == REPORT:
                yield model, run_id


def _line(row: ReleaseRow, *, reported: bool) -> _Line:
    return _Line(
        version=f"{row.version}{f', attempt {row.attempt}' if row.attempt > 1 else ''}",
        outcome=row.outcome or "OPEN",
        reason=row.reason,
        when=f"closed {_clock(row.closed_at)}" if row.closed_at is not None else f"opened {_clock(row.opened_at)}",
        report=report_path(row.model, row.run_id) if reported else "",
        run=row.page,
    )


def _clock(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
