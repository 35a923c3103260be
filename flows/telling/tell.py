"""What people see of a release in the Prefect UI: progress, tables, the record, links."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from monitoring.interface import Verdict

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State


def key(*parts: str) -> str:
    """An artifact key: Prefect allows lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


class Progress:
    """A progress bar of one stage, in percent; moved only when it has changed by a percent or more."""

    def __init__(self, model: str, version: str, stage: str, description: str) -> None:
        self._shown = 0.0
        self._description = description
        made = create_progress_artifact(0.0, key=key(model, version, stage), description=description)
        assert isinstance(made, UUID)
        self._id = made

    def show(self, percent: float, note: str = "") -> None:
        """Moves the bar to *percent*."""
        percent = min(100.0, max(0.0, percent))
        if abs(percent - self._shown) >= 1.0:
            self._shown = percent
            update_progress_artifact(self._id, percent, description=f"{self._description}. {note}".strip())


def tell_verdict(model: str, verdict: Verdict) -> None:
    """A table: one row per metric with its verdict and the numbers it was decided by."""
    rows: list[dict[str, Any]] = [
        {"metric": metric.metric, "verdict": metric.outcome.value, "why": metric.why} for metric in verdict.metrics
    ]
    rows.append({"metric": "overall", "verdict": verdict.outcome.value, "why": verdict.reason})
    create_table_artifact(
        rows,
        key=key(model, verdict.candidate, verdict.stage),
        description=f"{model}/{verdict.candidate} against {verdict.baseline}, {verdict.stage}: {verdict.outcome.value}",
    )


def tell_record(model: str, version: str, markdown: str, links: Mapping[str, str]) -> None:
    """The release record as Markdown, and a link to each page that shows more."""
    create_markdown_artifact(markdown, key=key(model, version, "record"), description=f"Release of {model}/{version}")
    for name, url in links.items():
        create_link_artifact(url, link_text=name, key=key(model, version, name))


def ended(outcome: str, reason: str) -> State[Any]:
    """The state a release's flow run ends in, so that the UI's lists say what came of it.

    ERROR is a failed run: its automations fire. The other outcomes are what the run was asked to find out.
    """
    from prefect.states import Completed, Failed

    said = f"{outcome}: {reason}"
    if outcome == "ERROR":
        return Failed(message=said)
    names = {"PROMOTED": "Promoted", "ROLLED_BACK": "RolledBack", "INCONCLUSIVE": "Inconclusive"}
    return Completed(name=names[outcome], message=said, data=said)
