"""The release report: rendered once a release is closed, kept in the store, served by the receiver."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.release.watch import kept_verdicts
from infra.pages import report_path, run_page

if TYPE_CHECKING:
    from pathlib import Path

    from flows.release.line import Line
    from monitoring.ledger.ledger import Release
    from monitoring.report.summary import Summary


def publish(line: Line, release: Release) -> tuple[str, dict[str, str]]:
    """Puts the report of a closed release into the store; returns its Markdown and the links of its pages."""
    from monitoring.report.report import Moment, markdown, render

    folder = line.scratch / release.run_id
    verdicts, summaries = kept_verdicts(folder), _summaries(folder)
    run = run_page(line.settings.mlflow_pages or line.ledger.tracking_uri, release.experiment_id, release.run_id)

    def page_url(name: str) -> str:
        return f"{line.settings.receiver_url}/{report_path(release.model, release.run_id, name)}"

    links = {"mlflow run": run, "report": page_url("report.html")}
    drift = sorted((folder / "drift").glob("*.html"))
    for page in drift:
        line.store.put(f"{release.model}/{release.run_id}/drift-{page.name}", page)
        links[f"drift {page.stem}"] = page_url(f"drift-{page.name}")
    moments = [
        Moment(float(release.facts[fact]), what)
        for fact, what in (("decided_at", f"decided: {release.reason}"), ("committed_at", "the alias was moved"))
        if fact in release.facts
    ]
    page = folder / "report.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(render(release, verdicts, summaries, links, moments))
    line.store.put(f"{release.model}/{release.run_id}/report.html", page)
    return markdown(release, verdicts, summaries, links, moments), links


def _summaries(folder: Path) -> list[Summary]:
    from monitoring.evidence.evidence import load
    from monitoring.report.summary import summarise

    kept = sorted((folder / "evidence").glob("*/evidence.json"), key=lambda path: path.stat().st_mtime_ns)
    return [summarise(load(path.parent), path.parent.name) for path in kept]
