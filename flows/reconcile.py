"""reconcile: makes the world equal to the registry, from any state."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from uuid import UUID

from prefect import flow, get_run_logger, runtime

if TYPE_CHECKING:
    from flows.release.line import Line
    from flows.release.machine import Step
    from monitoring.ledger.ledger import Release

MOST_STEPS = 50  # a model that needs more steps than this is left for the next run


@flow(name="reconcile", flow_run_name="reconcile", persist_result=False)
def reconcile(model: str | None = None) -> dict[str, str]:
    """Restores what a dead flow left, follows or puts back what a hand moved, starts what webhooks missed.

    Args:
        model: Only this registered model; empty: every model of the registry.
    """
    from bentos.serving.errors import ShipwayError
    from flows.release.line import open_line

    log = get_run_logger()
    line = open_line()
    mark_dead_runs(line)
    said: dict[str, str] = {}
    failed = []
    for name in [model] if model else models_of(line):
        try:
            said[name] = settle(line, name)
        except ShipwayError as error:
            failed.append(f"{name}: {error}")
            log.error(f"{name}: {error}")
        else:
            log.info(f"{name}: {said[name]}")
    if failed:
        raise RuntimeError(
            f"{len(failed)} of {len(said) + len(failed)} models could not be settled: {'; '.join(failed)}"
        )
    return said


def models_of(line: Line) -> list[str]:
    """Every model that is registered, routed or running, or has a release open."""
    names = set(line.registry.models()) | set(line.gateway.plans())
    names |= {deployment.model for deployment in line.target.list()}
    names |= {release.model for release in line.ledger.all_open()}
    return sorted(names)


def settle(line: Line, model: str) -> str:
    """Brings one model to rest; returns what was done, or why nothing was."""
    from flows.release.drive import Drive
    from flows.release.line import policy_of
    from flows.release.machine import Do, next_step
    from flows.release.opening import open_release, target_of
    from flows.release.world import evidence_of, observe
    from flows.telling.prefect_teller import prefect_teller

    did: list[str] = []
    line = line.on(target_of(line, model))
    rules, source = policy_of(line.settings, model, None)
    for _ in range(MOST_STEPS):
        world, release = observe(line, model)
        if release is not None:
            taken = take_over(line, release)
            if taken is None:
                return "; ".join([*did, f"release {release.name} is under way"])
            closed = Drive(line.on(taken.facts.get("target")), taken, line.ledger.policy(taken), prefect_teller()).run()
            did.append(f"{closed.name} {closed.outcome}: {closed.reason}")
            continue
        step = next_step(world, rules, evidence_of(release) if release else {})
        if step.do is Do.DONE:
            return "; ".join([*did, step.why or "at rest"])
        if step.do is Do.OPEN:
            assert step.version is not None
            opened = open_release(
                line,
                model,
                step.version,
                kind="manual",
                policy=rules,
                policy_source=source,
                flow_run_id=str(runtime.flow_run.id),
            )
            closed = Drive(line.on(opened.facts.get("target")), opened, rules, prefect_teller()).run()
            did.append(f"{step.why}: {closed.name} {closed.outcome}: {closed.reason}")
            continue
        did.append(restore(line, model, step, rules))
        if step.do is Do.START:
            return "; ".join(did)
    return "; ".join([*did, f"not at rest after {MOST_STEPS} steps; the next run goes on"])


def take_over(line: Line, release: Release) -> Release | None:
    """The release as this flow's own, with a decision, where its owner is dead; None where it is alive or waits."""
    from flows.release.opening import waiting
    from flows.release.owner import alive, this_owner

    flow_run_id = str(runtime.flow_run.id)
    if release.owner.get("flow_run_id") != flow_run_id:
        if waiting(release) and not run_ended(release.owner.get("flow_run_id", "")):
            return None
        if "waiting_until" not in release.facts and alive(release.owner, release.heartbeat_at, time.time()):
            return None
        if "approved" in release.facts and alive(release.owner, release.heartbeat_at, time.time()):
            return None
    with line.lock(release.model):
        mine = line.ledger.open(
            release.model,
            release.candidate,
            baseline=release.baseline,
            policy=line.ledger.policy(release),
            policy_source=release.policy_source,
            digests={},
            owner=this_owner(flow_run_id),
        )
        if mine.facts.get("decision"):
            return mine
        if "waiting_until" in mine.facts and "approved" not in mine.facts:
            decision, why = "INCONCLUSIVE", "nobody decided in time"
        else:
            decision, why = "ERROR", f"flow run {release.owner.get('flow_run_id')} ended without finishing it"
        return line.ledger.note(mine, decision=decision, reason=why, decided_at=repr(time.time()))


def restore(line: Line, model: str, step: Step, rules: object) -> str:
    """Carries out one step outside of any release: routes, aliases and processes as the registry says."""
    from bentos.policy.release import ReleasePolicy
    from flows.release import plans, prepare
    from flows.release.machine import Do
    from flows.telling.prefect_teller import as_task

    assert isinstance(rules, ReleasePolicy)

    def call() -> str:
        with line.lock(model):
            match step.do:
                case Do.DEPLOY:
                    return str(prepare.deploy(line, model, str(step.version), rules).address)
                case Do.ROUTE:
                    line.gateway.apply(plans.alone(line, model, str(step.version), rules))
                case Do.UNROUTE:
                    line.gateway.remove(model)
                case Do.REMOVE:
                    return ", ".join(prepare.remove(line, model, str(step.version)))
                case Do.SET_ALIAS:
                    line.registry.set_alias(model, str(step.alias), str(step.version))
                case Do.DELETE_ALIAS:
                    line.registry.delete_alias(model, str(step.alias))
                case Do.START:
                    return start(line, model, str(step.version))
                case _:
                    raise AssertionError(f"{step} is no step of a model at rest")
            return step.why

    as_task(f"{model}: {step}", call)
    return f"{step}{f' ({step.why})' if step.why else ''}"


def start(line: Line, model: str, version: str) -> str:
    """The run that a webhook would have started, under the same key, so that only one of both starts it."""
    import os

    from flows.triggers.prefect_runs import PrefectRuns

    runs = PrefectRuns(os.environ["PREFECT_API_URL"], line.ledger.tracking_uri)
    started = runs.start_now(model, version)
    return f"flow run {started.id}"


def run_ended(flow_run_id: str) -> bool:
    """Whether Prefect has the run as ended, or not at all."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            state = client.read_flow_run(UUID(flow_run_id)).state
        except ObjectNotFound:
            return True
    return state is not None and state.is_final()


def mark_dead_runs(line: Line) -> None:
    """Runs that Prefect still calls Running, but whose process in the ledger is dead, become Crashed."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    from flows.release.owner import alive

    with get_client(sync_client=True) as client:
        for release in line.ledger.all_open():
            run = release.owner.get("flow_run_id", "")
            if not run or alive(release.owner, release.heartbeat_at, time.time()):
                continue
            try:
                state = client.read_flow_run(UUID(run)).state
            except ObjectNotFound:
                continue
            if state is not None and state.is_running():
                client.set_flow_run_state(UUID(run), Crashed(message="Its process is gone."), force=True)
                get_run_logger().warning(f"flow run {run} of {release.name} was called Running; its process is gone")
