"""Opening a release: who may own a model's release, and what it is opened with."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from bentos.children import ahead
from bentos.serving.errors import PermanentError
from flows.release.owner import alive, this_owner
from monitoring.ledger.ledger import BusyError

if TYPE_CHECKING:
    from bentos.policy.release import ReleasePolicy
    from flows.release.line import Line
    from flows.release.machine import Kind
    from monitoring.ledger.ledger import Release

WAIT_SECONDS = 3600.0  # a release that waits for another gives up after this long


class NothingToDoError(PermanentError):
    """What was asked for is so already, or cannot be meant."""


def open_release(
    line: Line,
    model: str,
    version: str,
    *,
    kind: Kind,
    policy: ReleasePolicy,
    policy_source: str,
    flow_run_id: str,
    facts: Mapping[str, str] | None = None,
    log: Callable[[str], None] = print,
) -> Release:
    """Opens the release of *version*, or goes on with the one that a dead flow left open.

    Another release of the model that is alive is waited for or refused, as the policy's ``tolerate_busy`` says. Raises
    BusyError then, and NothingToDoError when *version* is the live one already.
    """
    owner = this_owner(flow_run_id)
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        with line.lock(model):
            current = line.ledger.current(model)
            if current is None or may_take_over(current, flow_run_id, version):
                return _open(line, model, version, kind, policy, policy_source, owner, current, facts or {})
        who = f"{current.name}, owned by flow run {current.owner.get('flow_run_id')}"
        if policy.tolerate_busy == "refuse" or time.monotonic() > deadline:
            raise BusyError(
                f"release of {model}/{version}: {who}, is open. Wait for its end, cancel it with rollback-model, or set"
                " tolerate_busy: wait in the policy."
            )
        ahead.end()  # whoever waits here, for an hour at most, holds no interpreters
        log(f"waiting for {who}")
        time.sleep(2.0)


def target_of(line: Line, model: str) -> str | None:
    """The target block on which *model* was released last, None where it never was or the block is gone."""
    for release in line.ledger.releases(model, limit=20):
        if release.outcome == "PROMOTED" and release.facts.get("target") in line.targets:
            return release.facts["target"]
    return None


def promoted_under(line: Line, model: str, version: str) -> tuple[ReleasePolicy, str] | None:
    """The policy under which *version* was last promoted and where it came from; None where it was never promoted, or
    where what was kept is no policy any more."""
    from bentos.policy.load import PolicyError

    for release in line.ledger.releases(model, limit=100):
        if release.outcome == "PROMOTED" and release.candidate == version:
            try:
                return line.ledger.policy(release), f"as {release.name}: {release.policy_source}"
            except PolicyError:
                return None
    return None


def may_take_over(current: Release, flow_run_id: str, version: str) -> bool:
    """Whether a flow that wants to release *version* may go on with the open release: its own, or a dead flow's."""
    if current.candidate != version:
        return False
    if current.owner.get("flow_run_id") == flow_run_id:
        return True
    return not waiting(current) and not alive(current.owner, current.heartbeat_at, time.time())


def waiting(release: Release) -> bool:
    """Whether the release waits for a person, so that no process of it has to be alive."""
    until = release.facts.get("waiting_until")
    return until is not None and "approved" not in release.facts and time.time() < float(until)


def _open(
    line: Line,
    model: str,
    version: str,
    kind: Kind,
    policy: ReleasePolicy,
    policy_source: str,
    owner: dict[str, str],
    current: Release | None,
    facts: Mapping[str, str],
) -> Release:
    if current is not None:
        return line.ledger.open(
            model,
            version,
            baseline=current.baseline,
            policy=policy,
            policy_source=policy_source,
            digests={},
            owner=owner,
        )
    found = line.registry.resolve(model, version=version)
    aliases = line.registry.aliases(model)
    plan = line.gateway.plan(model)
    baseline = aliases.get("champion") if kind != "manual" else plan.baseline.version if plan is not None else None
    if baseline == version:
        raise NothingToDoError(f"{model}/{version} is the champion already: nothing to release.")
    release = line.ledger.open(
        model,
        version,
        baseline=baseline,
        policy=policy,
        policy_source=policy_source,
        digests={"model": found.digest, "policy": policy.digest()},
        owner=owner,
    )
    target = line.target_name if kind == "promote" else target_of(line, model) or line.target_name
    noted = {"kind": kind, "previous": aliases.get("previous", ""), "target": target, **facts}
    return line.ledger.note(release, **noted)
