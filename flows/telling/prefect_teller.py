"""A release speaking through Prefect: tasks, logs, artifacts, and the form that asks a person."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from pydantic import Field

from flows.release.drive import Approval, Teller
from flows.telling.tell import Progress, key, tell_record, tell_verdict

if TYPE_CHECKING:
    from flows.release.line import Line
    from monitoring.ledger.ledger import Release


class Decision(RunInput):
    """Promote the candidate, or return to the baseline."""

    decision: Literal["promote", "rollback"] = Field(description="What becomes of the candidate. There is no default.")
    reason: str = Field("", description="Why; kept in the release record.")


def prefect_teller() -> Teller:
    """The teller of the flow run that calls it."""
    logger = get_run_logger()
    return Teller(
        step=as_task, log=logger.info, progress=_progress, verdict=tell_verdict, closed=_closed, approve=_approve
    )


def as_task(name: str, call: Callable[[], str]) -> str:
    """Runs *call* as a task of the flow run, under *name*."""

    @task(name=name, cache_policy=NO_CACHE, persist_result=False)
    def step() -> str:
        return call()

    return step()


def _progress(model: str, version: str, stage: str) -> Callable[[float, str], None]:
    return Progress(model, version, stage, f"{model}/{version}: {stage}").show


def _approve(release: Release) -> Approval:
    """Suspends the flow run: worker and process are free until a person has answered the form."""
    from monitoring.report.report import markdown_text

    until = float(release.facts["waiting_until"])
    named = f"**{markdown_text(release.name)}** against {release.baseline or 'nothing'}"
    answer = suspend_flow_run(
        wait_for_input=Decision.with_initial_data(description=f"{named} passed its gates. What becomes of it?"),
        timeout=max(1, int(until - time.time())),
        key=key("approve", release.run_id),
    )
    return Approval(answer.decision == "promote", answer.reason)


def _closed(line: Line, release: Release) -> None:
    from flows.telling.report import publish

    markdown, links = publish(line, release)
    tell_record(release.model, release.candidate, markdown, links)
