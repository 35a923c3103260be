"""What registry, gateway, target and ledger say now, as the values that the release decides by."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from flows.release.machine import Evidence, Kind, Open, Routes, World
from infra.targets.interface import Deployment, State
from infra.traffic import TrafficPlan
from monitoring.interface import Outcome

if TYPE_CHECKING:
    from flows.release.line import Line
    from monitoring.ledger.ledger import Release

STAGE = "stage."  # facts `stage.<name>` hold the outcome of a stage


def observe(line: Line, model: str) -> tuple[World, Release | None]:
    """The world of *model* and its open release."""
    release = line.ledger.current(model)
    aliases = line.registry.aliases(model)
    deployments = deployed(line, model)
    world = World(
        champion=aliases.get("champion"),
        previous=aliases.get("previous"),
        challenger=aliases.get("challenger"),
        routes=routes_of(line.gateway.plan(model)),
        ready=frozenset(found.version for found in deployments if found.state is State.READY),
        running=frozenset(found.version for found in deployments),
        release=opened(release) if release is not None else None,
        refused=frozenset() if release is not None else _refused(line, model),
    )
    return world, release


def deployed(line: Line, model: str) -> list[Deployment]:
    """The deployments of *model*, those that answer first."""
    found = [deployment for deployment in line.target.list() if deployment.model == model]
    return sorted(found, key=lambda deployment: (deployment.state is not State.READY, deployment.name))


def routes_of(plan: TrafficPlan | None) -> Routes | None:
    """A traffic plan as the release sees it; a candidate arm without any traffic is none."""
    if plan is None:
        return None
    arm = plan.candidate
    if arm is None or not (arm.weight or arm.mirror_percent):
        return Routes(plan.baseline.version)
    return Routes(plan.baseline.version, arm.version, arm.weight, arm.mirror_percent)


def opened(release: Release) -> Open:
    """The open release as the state machine sees it."""
    facts = release.facts
    return Open(
        candidate=release.candidate,
        baseline=release.baseline,
        kind=cast(Kind, facts.get("kind", "promote")),
        previous=facts.get("previous") or None,
        vetted="vetted" in facts,
        built="built" in facts,
        approved=None if "approved" not in facts else facts["approved"] == "yes",
        decision=Outcome(facts["decision"]) if facts.get("decision") else None,
        committed="committed_at" in facts,
        baked="baked" in facts,
    )


def evidence_of(release: Release) -> Evidence:
    """The outcome of every stage that was decided."""
    return {name.removeprefix(STAGE): Outcome(value) for name, value in release.facts.items() if name.startswith(STAGE)}


def _refused(line: Line, model: str) -> frozenset[str]:
    """Versions whose newest closed release did not end PROMOTED."""
    newest: dict[str, str] = {}
    for release in line.ledger.releases(model, limit=100):
        if not release.open:
            newest.setdefault(release.candidate, release.outcome)
    return frozenset(version for version, outcome in newest.items() if outcome != "PROMOTED")
