"""The release as a pure state machine: what the world says now, and therefore the one step that comes next.

``next_step(world, policy, evidence) → step`` holds every decision about order. ``promote-model`` and ``rollback-model``
carry its steps out, ``reconcile`` asks the same function after a crash, and a test explores it exhaustively. Nothing is
remembered between calls: a release that was killed anywhere goes on from what registry, gateway, target and ledger say.

The order that must hold: a version is vetted before it is built, ready before it is checked, checked before it gets a
copy of any traffic, mirrored before it answers anyone, and decided upon before routes move. Routes first, alias last:
the alias ``champion`` is the commit point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from bentos.policy.release import ReleasePolicy
from monitoring.interface import Outcome

Kind = Literal["promote", "manual", "rollback"]


class Do(StrEnum):
    """What a step does to the world. Each is an ensure: doing it twice is doing it once."""

    VET = "vet"
    BUILD = "build"
    DEPLOY = "deploy"
    CHECK = "check"
    ROUTE = "route"
    SHADOW = "shadow"
    SPLIT = "split"
    WATCH = "watch"
    APPROVE = "approve"
    DECIDE = "decide"
    SET_ALIAS = "set-alias"
    DELETE_ALIAS = "delete-alias"
    COMMITTED = "committed"
    BAKE = "bake"
    UNROUTE = "unroute"
    REMOVE = "remove"
    CLOSE = "close"
    OPEN = "open"
    START = "start"
    DONE = "done"


@dataclass(frozen=True)
class Step:
    """One thing to do, with what it is done to. Fields that a step has no use for keep their defaults."""

    do: Do
    version: str | None = None
    alias: str | None = None
    weight: int = 0  # candidate weight of a split, percent
    stage: str = ""  # whose evidence is watched: "shadow" or "split-<weight>"
    outcome: Outcome | None = None
    why: str = ""

    def __str__(self) -> str:
        detail = [
            self.stage,
            f"{self.weight}%" if self.weight else "",
            self.alias or "",
            f"version {self.version}" if self.version else "",
            self.outcome.value if self.outcome else "",
        ]
        return " ".join([self.do.value, *(word for word in detail if word)])


@dataclass(frozen=True)
class Routes:
    """What the gateway does with a model's requests now."""

    baseline: str
    candidate: str | None = None
    weight: int = 0
    mirror: float = 0.0


@dataclass(frozen=True)
class Open:
    """The open release of a model, as the ledger has it."""

    candidate: str
    baseline: str | None
    kind: Kind = "promote"
    previous: str | None = None  # the alias `previous` as it was when the release was opened
    vetted: bool = False
    built: bool = False
    approved: bool | None = None  # a person's answer, None while there is none
    decision: Outcome | None = None
    committed: bool = False  # the alias was seen moved
    baked: bool = False


@dataclass(frozen=True)
class World:
    """Everything a decision may depend on, read from registry, gateway, target and ledger at one moment."""

    champion: str | None
    previous: str | None
    challenger: str | None
    routes: Routes | None
    ready: frozenset[str]  # versions that answer
    running: frozenset[str]  # versions that the target has, ready or not
    release: Open | None
    refused: frozenset[str] = frozenset()  # versions whose newest release did not end PROMOTE


Evidence = Mapping[str, Outcome]  # stage → outcome: "check", "shadow", "split-10", …


def next_step(world: World, policy: ReleasePolicy, evidence: Evidence) -> Step:
    """The one step that comes next. Pure: equal arguments give an equal step."""
    if world.release is None:
        return _settle(world, policy)
    release = world.release
    by_hand = _moved_by_hand(world, release, policy)
    if by_hand is not None:
        return by_hand
    match release.decision:
        case None:
            return _forward(world, release, policy, evidence)
        case Outcome.PROMOTE:
            return _commit(world, release, policy)
        case _:
            return _retreat(world, release)


def _moved_by_hand(world: World, release: Open, policy: ReleasePolicy) -> Step | None:
    """A person moved `champion` while the release was open: followed, or put back, as the policy says."""
    champion = world.champion
    if release.decision not in (None, Outcome.PROMOTE) or champion in (release.baseline, release.candidate):
        if release.committed and release.decision == Outcome.PROMOTE and champion == release.baseline is not None:
            return Step(Do.DECIDE, outcome=Outcome.ROLLBACK, why="champion was moved back by hand")
        return None
    if release.committed:
        return None  # the release is over but for its tidying; what the person wants comes after it
    if policy.on_manual_champion == "restore" and release.decision is None and release.kind != "manual":
        if release.baseline is None:
            return Step(Do.DELETE_ALIAS, alias="champion", why="moved by hand; the policy restores it")
        return Step(Do.SET_ALIAS, release.baseline, alias="champion", why="moved by hand; the policy restores it")
    return Step(Do.DECIDE, outcome=Outcome.ROLLBACK, why=f"champion was moved by hand to {champion or 'nothing'}")


def _forward(world: World, release: Open, policy: ReleasePolicy, evidence: Evidence) -> Step:
    """Undecided: from the registry to a decision."""
    candidate, baseline = release.candidate, release.baseline
    restores = policy.on_manual_champion == "restore" and release.kind != "manual"
    if restores and world.champion == candidate and baseline is not None:
        return Step(Do.SET_ALIAS, baseline, alias="champion", why="moved by hand; the policy restores it")
    if not release.vetted:
        return Step(Do.VET, candidate)
    if baseline is not None:
        live = _live(world, baseline)
        if live is not None:
            return live
    if not release.built:
        return Step(Do.BUILD, candidate)
    if "check" not in evidence:
        if candidate not in world.ready:
            return Step(Do.DEPLOY, candidate)
        return Step(Do.CHECK, candidate)
    checked = evidence["check"]
    unsure = checked is Outcome.INCONCLUSIVE and policy.on_inconclusive == "approval"
    if checked is not Outcome.PROMOTE and not unsure:
        return Step(Do.DECIDE, outcome=checked, stage="check")
    if release.kind != "promote" or (baseline is not None and world.champion == candidate):
        return Step(Do.DECIDE, outcome=checked, why="champion was moved by hand")
    asks = policy.approval or unsure
    if baseline is None:
        return _decide(world, release, asks)
    return _evaluate(world, release, policy, evidence, asks)


def _evaluate(world: World, release: Open, policy: ReleasePolicy, evidence: Evidence, asks: bool) -> Step:
    """Mirror, then split, each entered only through the one before."""
    candidate, baseline = release.candidate, release.baseline
    assert baseline is not None
    stages: list[tuple[str, Routes, Step]] = []
    if policy.shadow.percent > 0:
        routes = Routes(baseline, candidate, 0, policy.shadow.percent)
        stages.append(("shadow", routes, Step(Do.SHADOW, candidate)))
    stages.extend(
        (f"split-{weight}", Routes(baseline, candidate, weight), Step(Do.SPLIT, candidate, weight=weight))
        for weight in policy.split.steps
    )
    for stage, routes, enter in stages:
        outcome = evidence.get(stage)
        if outcome is Outcome.PROMOTE:
            continue
        if outcome is Outcome.INCONCLUSIVE and policy.on_inconclusive == "approval":
            asks = True
            break
        if outcome is not None:
            return Step(Do.DECIDE, outcome=outcome, stage=stage)
        if world.routes == routes:
            return Step(Do.WATCH, candidate, weight=routes.weight, stage=stage)
        if candidate not in world.ready:
            return Step(Do.DEPLOY, candidate)
        return enter
    return _decide(world, release, asks)


def _decide(world: World, release: Open, asks: bool) -> Step:
    """Everything the policy wanted to see was seen; a person may have the last word."""
    baseline = release.baseline
    if asks and release.approved is None:
        if baseline is not None and world.routes != Routes(baseline):
            return Step(Do.ROUTE, baseline, why="the baseline answers alone while a person decides")
        return Step(Do.APPROVE, release.candidate)
    if release.approved is False:
        return Step(Do.DECIDE, outcome=Outcome.ROLLBACK, why="a person refused it")
    if release.approved:
        return Step(Do.DECIDE, outcome=Outcome.PROMOTE, why="a person approved it")
    return Step(Do.DECIDE, outcome=Outcome.PROMOTE)


def _commit(world: World, release: Open, policy: ReleasePolicy) -> Step:
    """Decided for the candidate: routes first, alias last, then the bake."""
    candidate, baseline = release.candidate, release.baseline
    if not release.committed:
        live = _live(world, candidate)
        if live is not None:
            return live
        if release.kind != "rollback" and baseline is not None and world.previous != baseline:
            return Step(Do.SET_ALIAS, baseline, alias="previous")
        if world.champion != candidate:
            return Step(Do.SET_ALIAS, candidate, alias="champion")
        return Step(Do.COMMITTED, candidate)
    if world.challenger == candidate:
        return Step(Do.DELETE_ALIAS, alias="challenger", why=f"version {candidate} is the champion now")
    if release.kind == "rollback" and world.previous == candidate:
        return Step(Do.DELETE_ALIAS, alias="previous", why="it is the champion again")
    if not release.baked and policy.bake_seconds > 0 and baseline is not None:
        return Step(Do.BAKE, candidate)
    return _remove_but(world, candidate) or Step(Do.CLOSE, candidate, outcome=release.decision)


def _retreat(world: World, release: Open) -> Step:
    """Decided against the candidate, or not able to go on: the baseline answers, and nothing of the candidate is left."""
    candidate, baseline = release.candidate, release.baseline
    if baseline is not None:
        live = _live(world, baseline)
        if live is not None:
            return live
        if world.champion == candidate:
            return Step(Do.SET_ALIAS, baseline, alias="champion")
        if release.kind != "rollback" and world.previous == baseline:
            if release.previous is None or release.previous == baseline:
                return Step(Do.DELETE_ALIAS, alias="previous")
            return Step(Do.SET_ALIAS, release.previous, alias="previous")
    elif world.routes is not None:
        return Step(Do.UNROUTE, candidate)
    if world.challenger == candidate:
        return Step(Do.DELETE_ALIAS, alias="challenger", why=f"version {candidate} was not promoted")
    return _remove_but(world, baseline) or Step(Do.CLOSE, candidate, outcome=release.decision)


def _settle(world: World, policy: ReleasePolicy) -> Step:
    """No release is open: registry = gateway = processes."""
    champion, routes = world.champion, world.routes
    if champion is None:
        if routes is None:
            return _remove_but(world, None) or _missed(world)
        if policy.on_manual_champion == "restore":
            return Step(Do.SET_ALIAS, routes.baseline, alias="champion", why="removed by hand; the policy restores it")
        return Step(Do.UNROUTE, routes.baseline, why="champion was removed by hand")
    if routes is None or routes.baseline != champion:
        if champion in world.refused:
            if routes is not None:
                return Step(Do.SET_ALIAS, routes.baseline, alias="champion", why=f"version {champion} was refused")
            done = Step(Do.DONE, why=f"version {champion} was refused and nothing else is live")
            return _remove_but(world, None) or done
        if routes is not None and policy.on_manual_champion == "restore":
            return Step(Do.SET_ALIAS, routes.baseline, alias="champion", why="moved by hand; the policy restores it")
        return Step(Do.OPEN, champion, why="champion was set by hand")
    if world.previous == champion:
        return Step(Do.DELETE_ALIAS, alias="previous", why="it is the champion")
    return _live(world, champion) or _remove_but(world, champion) or _missed(world)


def _missed(world: World) -> Step:
    """A challenger that no release was started for: the webhook was missed."""
    if world.challenger is not None and world.challenger != world.champion:
        return Step(Do.START, world.challenger, why="its webhook was missed")
    return Step(Do.DONE)


def _live(world: World, version: str) -> Step | None:
    """What is missing until *version* alone answers every request, in the order that drops none."""
    if version not in world.ready:
        return Step(Do.DEPLOY, version)
    if world.routes != Routes(version) and not _evaluating(world, version):
        return Step(Do.ROUTE, version)
    return None


def _evaluating(world: World, version: str) -> bool:
    """Whether candidate traffic beside *version* is the open, undecided release's own."""
    release, routes = world.release, world.routes
    return (
        release is not None
        and release.decision is None
        and routes is not None
        and routes.baseline == version == release.baseline
        and routes.candidate == release.candidate
    )


def _remove_but(world: World, kept: str | None) -> Step | None:
    """Removes versions that run without being wanted, one at a time, lowest first."""
    surplus = sorted(world.running - {kept})
    return Step(Do.REMOVE, surplus[0]) if surplus else None
