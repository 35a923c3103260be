"""promote-model: a registered model version to its verdict, and the verdict carried out."""

from __future__ import annotations

import time

from prefect import flow, get_run_logger, runtime
from prefect.client.schemas.objects import State


def _run_name() -> str:
    given = runtime.flow_run.parameters
    return f"promote {given['model']} {given.get('version') or '@' + str(given.get('alias'))}"


@flow(name="promote-model", flow_run_name=_run_name, persist_result=False)
def promote_model(
    model: str,
    version: int | str | None = None,
    alias: str | None = None,
    policy: str | None = None,
    target: str | None = None,
) -> State[str]:
    """Carries a registered version to a verdict on live traffic, promotes it or returns to the baseline, and records why.

    Args:
        model: Name of the registered model.
        version: Version to release; give this or alias.
        alias: Alias of the version to release, for example challenger.
        policy: Name of a release policy block; empty: the model's own block, its YAML file, or the documented default.
        target: Name of the target block that runs the version; empty: the one that SHIPWAY_TARGET names (process).
    """
    from bentos.vet.vet import start_ahead
    from flows.release import prepare
    from flows.release.drive import Drive
    from flows.release.durations import facts_of
    from flows.release.line import open_line, policy_of
    from flows.release.opening import open_release
    from flows.telling.prefect_teller import as_task, prefect_teller
    from flows.telling.tell import ended

    start_ahead()
    line = open_line(target)
    rules, source = policy_of(line.settings, model, policy)
    resolved: list[str] = []

    def resolve() -> str:
        found = line.registry.resolve(model, version=None if version is None else str(version), alias=alias)
        resolved.append(found.version)
        prepare.start_ahead(line, found, rules)
        return f"{found.name}: {found.flavor}, {found.digest}"

    get_run_logger().info(as_task("resolve", resolve))
    release = open_release(
        line,
        model,
        resolved[0],
        kind="promote",
        policy=rules,
        policy_source=source,
        flow_run_id=str(runtime.flow_run.id),
        facts=facts_of({"start": time.time() - runtime.flow_run.scheduled_start_time.timestamp()}),
        log=get_run_logger().info,
    )
    closed = Drive(line.on(release.facts.get("target")), release, line.ledger.policy(release), prefect_teller()).run()
    return ended(closed.outcome, closed.reason)
