"""rollback-model: back to the previous version by one route change."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prefect import flow, get_run_logger, runtime
from prefect.client.schemas.objects import State

if TYPE_CHECKING:
    from bentos.policy.release import ReleasePolicy
    from flows.release.line import Line
    from monitoring.ledger.release import Release


@flow(name="rollback-model", flow_run_name="roll back {model}", persist_result=False)
def rollback_model(model: str, reason: str = "asked for") -> State[str]:
    """Returns a model to its previous version: routes first, then the alias. The version runs as it was promoted, under
    the policy of then.

    A release under way is ended in its baseline instead, at whatever step it is.

    Args:
        model: Name of the registered model.
        reason: Why; kept in the release record.
    """
    from flows.release.drive import Drive
    from flows.release.line import open_line
    from flows.telling.prefect_teller import prefect_teller
    from flows.telling.tell import ended

    line = open_line()
    flow_run_id = str(runtime.flow_run.id)
    decided = {"decided_at": repr(time.time()), "reason": reason}
    current = line.ledger.current(model)
    if current is not None and current.owner.get("flow_run_id") != flow_run_id:
        release, rules = _take_over(line, current, flow_run_id, decided)
        get_run_logger().info(f"took over {release.name} to end it in its baseline")
    else:
        release, rules = _open(line, model, flow_run_id, decided)
    closed = Drive(line.on(release.facts.get("target")), release, rules, prefect_teller()).run()
    return ended(closed.outcome, closed.reason)


def _take_over(
    line: Line, current: Release, flow_run_id: str, decided: dict[str, str]
) -> tuple[Release, ReleasePolicy]:
    """The release under way, decided to end in its baseline. Raises NothingToDoError where it has none and is live."""
    from flows.release.opening import NothingToDoError
    from flows.release.owner import this_owner

    model, rules = current.model, line.ledger.policy(current)
    if current.baseline is None and line.registry.champion(model) == current.candidate:
        raise NothingToDoError(
            f"{model}/{current.candidate} is live and there was no version before it: nothing to roll back to. Promote"
            " the version you want with promote-model."
        )
    with line.lock(model):
        release = line.ledger.open(
            model,
            current.candidate,
            baseline=current.baseline,
            policy=rules,
            policy_source=current.policy_source,
            digests={},
            owner=this_owner(flow_run_id),
        )
        return line.ledger.note(release, decision="ROLLBACK", **decided), rules


def _open(line: Line, model: str, flow_run_id: str, decided: dict[str, str]) -> tuple[Release, ReleasePolicy]:
    """A release of the previous version, decided to be promoted. Raises NothingToDoError where there is none."""
    from flows.release.line import policy_of
    from flows.release.opening import NothingToDoError, open_release, promoted_under

    previous = line.registry.aliases(model).get("previous")
    if previous is None:
        raise NothingToDoError(
            f"{model} has no alias 'previous': nothing to roll back to. Set the alias in MLflow, or promote the version"
            " you want with promote-model."
        )
    rules, source = promoted_under(line, model, previous) or policy_of(line.settings, model, None)
    release = open_release(
        line,
        model,
        previous,
        kind="rollback",
        policy=rules,
        policy_source=source,
        flow_run_id=flow_run_id,
        facts={"decision": "PROMOTE", "vetted": "released before", **decided},
    )
    return release, rules
