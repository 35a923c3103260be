"""The release explored exhaustively on small worlds: every outcome, crash, kill, lapse and hand at every boundary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from bentos.policy.load import parse_policy
from bentos.policy.release import ReleasePolicy
from flows.release.machine import Do, Open, Routes, Step, World, next_step
from monitoring.interface import Outcome

EVIDENCE = tuple[tuple[str, Outcome], ...]


@dataclass(frozen=True)
class State:
    """A world with the release's evidence, and how many disturbances may still come."""

    world: World
    evidence: EVIDENCE
    events: int


def policy(**changes: object) -> ReleasePolicy:
    return parse_policy({"split": {"steps": [10, 50]}, **changes}, where="test")


def world(champion: str | None, **changes: object) -> World:
    live = frozenset({champion}) if champion else frozenset[str]()
    base = World(
        champion=champion,
        previous=None,
        challenger="2",
        routes=Routes(champion) if champion else None,
        ready=live,
        running=live,
        release=Open(candidate="2", baseline=champion),
    )
    return replace(base, **changes)


def effects(state: State, step: Step) -> Iterator[State]:
    """Every way the world may answer *step*, as flows/steps.py carries it out."""
    w, release = state.world, state.world.release

    def to(world: World, evidence: EVIDENCE | None = None) -> State:
        return replace(state, world=world, evidence=state.evidence if evidence is None else evidence)

    def noted(**facts: object) -> World:
        assert release is not None
        return replace(w, release=replace(release, **facts))

    match step.do:
        case Do.VET | Do.BUILD:
            yield to(noted(**{"vetted" if step.do is Do.VET else "built": True}))
            yield to(noted(decision=Outcome.ROLLBACK if step.do is Do.VET else Outcome.ERROR))
        case Do.DEPLOY:
            yield to(replace(w, ready=w.ready | {step.version}, running=w.running | {step.version}))
            if (
                release is not None
                and step.version == release.candidate
                and release.decision in (None, Outcome.PROMOTE)
            ):
                yield to(noted(decision=Outcome.ERROR))
        case Do.CHECK | Do.WATCH:
            stage = "check" if step.do is Do.CHECK else step.stage
            for outcome in (Outcome.PROMOTE, Outcome.ROLLBACK, Outcome.INCONCLUSIVE, Outcome.ERROR):
                yield to(w, (*state.evidence, (stage, outcome)))
        case Do.ROUTE:
            yield to(replace(w, routes=Routes(step.version)))
        case Do.SHADOW:
            yield to(replace(w, routes=Routes(release.baseline, step.version, 0, 100.0)))
        case Do.SPLIT:
            yield to(replace(w, routes=Routes(release.baseline, step.version, step.weight)))
        case Do.APPROVE:
            yield to(noted(approved=True))
            yield to(noted(approved=False))
        case Do.DECIDE:
            yield to(noted(decision=step.outcome))
        case Do.SET_ALIAS | Do.DELETE_ALIAS:
            yield to(replace(w, **{step.alias: step.version if step.do is Do.SET_ALIAS else None}))
        case Do.COMMITTED:
            yield to(noted(committed=True))
        case Do.BAKE:
            yield to(noted(baked=True))
        case Do.UNROUTE:
            yield to(replace(w, routes=None))
        case Do.REMOVE:
            yield to(replace(w, ready=w.ready - {step.version}, running=w.running - {step.version}))
        case Do.CLOSE:
            refused = w.refused - {step.version} if step.outcome is Outcome.PROMOTE else w.refused | {step.version}
            yield to(replace(w, release=None, refused=refused), ())
        case Do.OPEN | Do.START:
            baseline = w.routes.baseline if w.routes is not None else None
            kind = "manual" if step.do is Do.OPEN else "promote"
            yield to(replace(w, release=Open(step.version, baseline, kind, w.previous)), ())
        case _:
            raise AssertionError(step)


def disturbances(state: State) -> Iterator[State]:
    """What may happen between any two steps, whoever owns the release."""
    if not state.events:
        return
    w, release = state.world, state.world.release
    left = replace(state, events=state.events - 1)
    for version in sorted(w.ready):
        yield replace(left, world=replace(w, ready=w.ready - {version}))  # kill -9
    for version in ("1", "2", "3", None):
        if version != w.champion:
            yield replace(left, world=replace(w, champion=version))  # a person's hand
    if w.routes is not None and w.routes.candidate is not None:
        yield replace(left, world=replace(w, routes=Routes(w.routes.baseline)))  # the lease lapsed
    if release is not None and release.decision is None:
        yield replace(left, world=replace(w, release=replace(release, decision=Outcome.ERROR)))  # owner died: reconcile
    if release is not None and release.decision is Outcome.PROMOTE and release.kind == "promote" and release.baseline:
        yield replace(left, world=replace(w, release=replace(release, decision=Outcome.ROLLBACK)))  # rollback-model
    if release is None and w.champion and w.previous and w.previous != w.champion:
        asked = Open(w.previous, w.champion, "rollback", w.previous, decision=Outcome.PROMOTE)
        yield replace(left, world=replace(w, release=asked))
    if release is None and w.challenger is None and w.champion not in (None, "3"):
        yield replace(left, world=replace(w, challenger="3"))  # a second release is asked for


def check_step(state: State, step: Step, rules: ReleasePolicy) -> None:
    """What must hold of the step that the machine proposes in *state*."""
    w, release = state.world, state.world.release
    if step.do in (Do.ROUTE, Do.SHADOW, Do.SPLIT):
        assert step.version in w.ready, f"{step} gives traffic to an arm that is not ready"
    if step.do in (Do.SHADOW, Do.SPLIT):
        passed = (Outcome.PROMOTE, Outcome.INCONCLUSIVE if rules.on_inconclusive == "approval" else Outcome.PROMOTE)
        assert release.vetted and release.built and dict(state.evidence)["check"] in passed
        assert release.decision is None and w.routes.baseline == release.baseline
    if step.do is Do.SPLIT and rules.shadow.percent:
        assert dict(state.evidence)["shadow"] is Outcome.PROMOTE
    if step.do is Do.SET_ALIAS and step.alias == "champion" and release is not None:
        assert w.routes == Routes(step.version) or step.why, f"{step}: alias before routes"
    if step.do is Do.REMOVE:
        assert w.routes is None or step.version not in (w.routes.baseline, w.routes.candidate), (
            f"{step} still has traffic"
        )
    if step.do is Do.UNROUTE:
        assert w.champion is None or (release is not None and release.baseline is None)
    if step.do is Do.DECIDE and step.outcome is Outcome.PROMOTE and not release.approved:
        assert dict(state.evidence)["check"] is Outcome.PROMOTE, "promoted an unchecked version"
    if step.do is Do.DECIDE and step.outcome is Outcome.PROMOTE and release.kind == "promote" and release.baseline:
        by_hand = w.champion == release.candidate
        inconclusive_ok = release.approved is True
        needed = ["check"] + (["shadow"] if rules.shadow.percent else []) + [f"split-{s}" for s in rules.split.steps]
        passed = all(dict(state.evidence).get(stage) is Outcome.PROMOTE for stage in needed)
        assert passed or by_hand or inconclusive_ok, "silence promoted"


POLICIES = {
    "default": policy(),
    "approval": policy(approval=True),
    "inconclusive-asks": policy(on_inconclusive="approval"),
    "restore": policy(on_manual_champion="restore"),
    "no-shadow": policy(shadow={"percent": 0}),
    "no-bake": policy(bake_seconds=0),
}


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("champion", ["1", None])
def test_every_path_ends_in_exactly_one_live_version(name: str, champion: str | None) -> None:
    rules = POLICIES[name]
    seen: set[State] = set()
    ends: set[str | None] = set()
    successors: dict[State, list[State]] = {}
    todo = [State(world(champion), (), 2)]
    while todo:
        state = todo.pop()
        if state in seen:
            continue
        seen.add(state)
        step = next_step(state.world, rules, dict(state.evidence))
        assert next_step(state.world, rules, dict(state.evidence)) == step
        check_step(state, step, rules)
        if step.do is Do.DONE:
            w = state.world
            assert w.release is None
            live = w.routes.baseline if w.routes else None
            assert live == w.champion or w.champion in w.refused, f"live {live}, champion {w.champion}"
            assert w.routes is None or w.routes.candidate is None
            assert w.running <= {live}
            assert live is None or live in w.ready
            ends.add(live)
            calm: list[State] = []
        else:
            calm = list(effects(state, step))
            assert all(after != state for after in calm), f"{step} changes nothing"
        successors[state] = calm
        todo.extend(calm)
        todo.extend(disturbances(state))
    assert len(seen) > 500
    never_dark = champion is not None and rules.on_manual_champion == "restore"
    assert ends == ({"1", "2", "3"} if never_dark else {"1", "2", "3", None})
    _assert_no_endless_loop(successors)


def _assert_no_endless_loop(successors: dict[State, list[State]]) -> None:
    """Without further disturbances every run ends: the calm graph has no cycle."""
    colour: dict[State, int] = {}
    for root in successors:
        if colour.get(root):
            continue
        stack: list[tuple[State, Iterator[State]]] = [(root, iter(successors[root]))]
        colour[root] = 1
        while stack:
            state, rest = stack[-1]
            after = next(rest, None)
            if after is None:
                colour[state] = 2
                stack.pop()
            elif colour.get(after) == 1:
                raise AssertionError(f"a run that never ends, through {after}")
            elif after not in colour:
                colour[after] = 1
                stack.append((after, iter(successors[after])))


def test_the_calm_path_reads_like_the_sentence() -> None:
    state, said = State(world("1"), (), 0), []
    while (step := next_step(state.world, policy(), dict(state.evidence))).do is not Do.DONE:
        said.append(str(step))
        state = next(iter(effects(state, step)))
    assert said == [
        "vet version 2",
        "build version 2",
        "deploy version 2",
        "check version 2",
        "shadow version 2",
        "watch shadow version 2",
        "split 10% version 2",
        "watch split-10 10% version 2",
        "split 50% version 2",
        "watch split-50 50% version 2",
        "decide PROMOTE",
        "route version 2",
        "set-alias previous version 1",
        "set-alias champion version 2",
        "committed version 2",
        "delete-alias challenger",
        "bake version 2",
        "remove version 1",
        "close version 2 PROMOTE",
    ]
    assert state.world.champion == "2" and state.world.previous == "1"


def test_a_candidate_that_dies_under_watch_is_judged_not_restarted() -> None:
    dead = world(
        "1",
        release=Open("2", "1", vetted=True, built=True),
        routes=Routes("1", "2", 0, 100.0),
        running=frozenset({"1", "2"}),
    )
    assert next_step(dead, policy(), {"check": Outcome.PROMOTE}).do is Do.WATCH


def test_inconclusive_returns_to_the_baseline_by_default() -> None:
    w = world("1", release=Open("2", "1", vetted=True, built=True), routes=Routes("1", "2", 0, 100.0))
    step = next_step(w, policy(), {"check": Outcome.PROMOTE, "shadow": Outcome.INCONCLUSIVE})
    assert (step.do, step.outcome) == (Do.DECIDE, Outcome.INCONCLUSIVE)


def test_a_missed_webhook_is_found() -> None:
    w = world("1", release=None)
    assert next_step(w, policy(), {}) == Step(Do.START, "2", why="its webhook was missed")
