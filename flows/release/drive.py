"""Drives one release: observe, decide, do; until it is closed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bentos.serving.errors import ShipwayError, TransientError
from flows.release import plans, prepare
from flows.release.candidate_timeout import candidate_timeout, shadow_of
from flows.release.durations import Durations, facts_of, words_of
from flows.release.machine import Do, Step, next_step
from flows.release.watch import EvaluationEndedError, Watch, counters, keep_verdict, kept_verdicts
from flows.release.world import STAGE, evidence_of, observe
from infra.targets.interface import TransientTargetError
from monitoring.interface import Outcome, Verdict
from monitoring.ledger.ledger import BusyError, ClosedError
from monitoring.ledger.release import CANDIDATE_TIMEOUT

if TYPE_CHECKING:
    from bentos.policy.release import ReleasePolicy
    from flows.release.line import Line
    from flows.release.prepare import Prepared
    from monitoring.ledger.ledger import Release

T = TypeVar("T")

CLOSED_AS = {
    Outcome.PROMOTE: "PROMOTED",
    Outcome.ROLLBACK: "ROLLED_BACK",
    Outcome.INCONCLUSIVE: "INCONCLUSIVE",
    Outcome.ERROR: "ERROR",
}
PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds before each further try
MEASURED = (Do.VET, Do.BUILD, Do.DEPLOY, Do.CHECK, Do.SHADOW)  # of the candidate, seconds each in the record
UNLOCKED = {Do.VET, Do.BUILD, Do.DEPLOY, Do.CHECK, Do.WATCH, Do.BAKE, Do.APPROVE}  # long, and they move nothing


@dataclass(frozen=True)
class Approval:
    """A person's answer."""

    promote: bool
    reason: str


@dataclass
class Teller:
    """How a release speaks while it goes on; the flows give one that speaks through Prefect."""

    step: Callable[[str, Callable[[], str]], str] = lambda name, call: call()
    log: Callable[[str], None] = print
    progress: Callable[[str, str, str], Callable[[float, str], None]] = lambda model, version, stage: lambda *_: None
    verdict: Callable[[str, Verdict], None] = lambda model, verdict: None
    closed: Callable[[Line, Release], None] = lambda line, release: None
    approve: Callable[[Release], Approval] | None = None  # None: nobody can be asked here


@dataclass
class Drive:
    """Carries out the steps of one open release as its owner."""

    line: Line
    release: Release
    policy: ReleasePolicy
    teller: Teller = field(default_factory=Teller)
    _watch: Watch | None = field(default=None, repr=False)
    _made: Prepared | None = field(default=None, repr=False)  # the candidate, once this process has built it
    _ahead: bool = field(default=False, repr=False)  # the candidate's answers for the check are there

    def run(self) -> Release:
        """Goes on until the release is closed, and returns it as closed.

        Raises BusyError or ClosedError when another process took the release over or closed it, and whatever keeps it
        from returning to the baseline; reconcile goes on from there.
        """
        if _against(self.release):
            self._withdraw()  # whoever decided may have died before
        while True:
            closed = self.once()
            if closed is not None:
                return closed

    def once(self) -> Release | None:
        """One step; returns the release when that step closed it."""
        world, current = self._patiently(lambda: observe(self.line, self.release.model))
        if current is None or current.run_id != self.release.run_id:
            raise ClosedError(f"release {self.release.name} is not open any more.")
        if dict(current.owner) != dict(self.release.owner):
            raise BusyError(
                f"release {self.release.name} was taken over by flow run {current.owner.get('flow_run_id')}."
            )
        self.release = current
        step = next_step(world, self.policy, evidence_of(current))
        try:
            self._patiently(lambda: self._carry_out(step))
        except (BusyError, ClosedError):
            raise
        except EvaluationEndedError as ended:
            self.teller.log(str(ended))
        except prepare.VetRefusedError as refused:
            self._decide(Outcome.ROLLBACK, str(refused))
        except ShipwayError as error:
            if _against(current) or "committed_at" in current.facts:
                raise  # nothing left to decide: what failed is the way back itself
            self._decide(Outcome.ERROR, f"{step}: {error}")
        if step.do is Do.CLOSE:
            self._tell_closed()
            return self.release
        return None

    def _tell_closed(self) -> None:
        """The report of what is closed already: a store that is away costs the report, not the release."""
        try:
            self._patiently(lambda: self.teller.closed(self.line, self.release))
        except ShipwayError as error:
            self.teller.log(f"the report of {self.release.name} is not kept: {error}")

    def _patiently(self, call: Callable[[], T]) -> T:
        """Tries again what a part that was away for a moment failed; every step is an ensure, so that this is safe."""
        for pause in PAUSES:
            try:
                return call()
            except (BusyError, TransientTargetError):
                raise  # somebody else's release; a server that had its time
            except TransientError as away:
                self.teller.log(f"{away} Trying again in {pause:g} s.")
                time.sleep(pause)
        return call()

    def _carry_out(self, step: Step) -> None:
        """Does *step* as one task, under the model's lock where it moves anything."""
        lock = nullcontext() if step.do in UNLOCKED else self.line.lock(self.release.model)
        took = Durations()

        def call() -> str:
            with lock, took.measure(step.do.value):
                said = self.effect(step)
            if step.do in MEASURED and step.version == self.release.candidate:
                self._noted("", **facts_of(took))
            return said

        said = call() if step.do is Do.APPROVE else self.teller.step(str(step), call)
        self.teller.log(f"{step}: {said} ({took[step.do.value]:.1f} s)" if said else str(step))

    def effect(self, step: Step) -> str:
        """What *step* does to the world; returns a line about what was done."""
        line, model, policy, release = self.line, self.release.model, self.policy, self.release
        match step.do:
            case Do.VET:
                said = prepare.vet_version(line, model, _version(step), policy)
                return self._noted(said, vetted=said)
            case Do.BUILD:
                return self._build(_version(step))
            case Do.DEPLOY:
                ahead = self._predict_ahead if step.version == release.candidate else None
                made = self._made if step.version == release.candidate else None
                deployment = prepare.deploy(line, model, _version(step), policy, ahead, made=made)
                return f"{deployment.name} answers at {deployment.address}"
            case Do.CHECK:
                return self._check(_version(step))
            case Do.ROUTE:
                line.gateway.apply(plans.alone(line, model, _version(step), policy))
                return f"every request to version {step.version}"
            case Do.UNROUTE:
                line.gateway.remove(model)
                return "no routes"
            case Do.SHADOW | Do.SPLIT:
                return self._expose(step)
            case Do.WATCH:
                return self._look(step)
            case Do.APPROVE:
                return self._ask()
            case Do.DECIDE:
                assert step.outcome is not None
                return self._decide(step.outcome, step.why)
            case Do.SET_ALIAS:
                line.registry.set_alias(model, str(step.alias), _version(step))
                return step.why
            case Do.DELETE_ALIAS:
                line.registry.delete_alias(model, str(step.alias))
                return step.why
            case Do.COMMITTED:
                return self._noted("the alias is the commit point", committed_at=repr(time.time()))
            case Do.BAKE:
                return self._bake(_version(step))
            case Do.REMOVE:
                return ", ".join(prepare.remove(line, model, _version(step)))
            case Do.CLOSE:
                return self._close()
            case Do.OPEN | Do.START | Do.DONE:
                raise AssertionError(f"{step} is no step of an open release {release.name}")

    @property
    def scratch(self) -> Path:
        """Where this release's evidence lies until the ledger has it."""
        return self.line.scratch / self.release.run_id

    def _noted(self, said: str, **facts: str) -> str:
        self.release = self.line.ledger.note(self.release, **facts)
        return said

    def _decide(self, outcome: Outcome, why: str) -> str:
        """The intent, durable before anything moves; the clock of `seconds to the last bad answer` starts here."""
        stages = evidence_of(self.release)
        last = next((stage for stage in reversed(list(stages)) if stages[stage] is outcome), "")
        reason = why or self.release.facts.get(f"reason.{last}", "") or "every gate passed"
        said = self._noted(
            f"{outcome.value}: {reason}",
            decision=outcome.value,
            reason=reason[:4000],
            decided_stage=last,
            decided_at=repr(time.time()),
        )
        if outcome is not Outcome.PROMOTE:
            self._withdraw()
        return said

    def _withdraw(self) -> None:
        """The candidate's traffic ends with the decision against it, not a look at the world later."""
        try:
            self.line.gateway.withdraw(self.release.model)
        except ShipwayError as away:
            self.teller.log(f"{away}; the next step returns to the baseline")

    def _build(self, version: str) -> str:
        from infra.images.sbom import keep_sboms

        ours = version == self.release.candidate
        prepared = prepare.prepare(self.line, self.release.model, version, self.policy, checked_next=ours)
        bento, image = prepared.bento, prepared.image
        self._made = prepared if ours else self._made
        if ours and prepared.version.digest != self.release.digests["model"]:
            raise prepare.ChangedVersionError(
                f"{prepared.version.name}: its files have the digest {prepared.version.digest}, this release was opened for"
                f" {self.release.digests['model']}. Somebody changed the registered files: register them as a new version."
            )
        lock = (bento.source / "requirements.lock").read_text()
        sboms = keep_sboms(self.scratch / "evidence" / "sbom", prepared.version, lock, image)
        facts = {"built": bento.digest, **prepared.runtime_facts(), **sboms, **facts_of(prepared.durations)}
        said = f"sealed bento {bento.path.name}, {prepared.runtime}"
        if image is not None:
            said += f", image {image.tag} ({image.size / 1e6:.0f} MB)"
            facts |= {"image": image.reference, "image_tag": image.tag}
        return self._noted(f"{said}; {words_of(prepared.durations)}", **facts)

    def _predict_ahead(self, prepared: Prepared) -> None:
        """What the check needs of the version itself, while its server starts; what fails here, the check makes and says."""
        from flows.release.check import predict_ahead

        with suppress(ShipwayError):
            predict_ahead(self.line, prepared, self.policy, self._check_folder, baseline=self.release.baseline)
            self._made, self._ahead = prepared, True

    @property
    def _check_folder(self) -> Path:
        return self.scratch / "evidence" / "check"

    def _check(self, version: str) -> str:
        from bentos.children import ahead
        from flows.release.check import check_version

        prepared = self._made or prepare.prepare(self.line, self.release.model, version, self.policy)
        address = prepare.deploy(self.line, self.release.model, version, self.policy).address
        verdict = check_version(
            self.line,
            prepared,
            address,
            self.policy,
            self._check_folder,
            baseline=self.release.baseline,
            ahead=self._ahead,
        )
        ahead.end()
        keep_verdict(self.scratch, "check", verdict)
        return self._stage_ended("check", verdict)

    def _stage_ended(self, stage: str, verdict: Verdict) -> str:
        self.teller.verdict(self.release.model, verdict)
        said = f"{verdict.outcome.value}: {verdict.reason}"
        facts = {f"{STAGE}{stage}": verdict.outcome.value, f"reason.{stage}": f"{stage}: {verdict.reason}"[:4000]}
        return self._noted(said, **facts)

    def _expose(self, step: Step) -> str:
        """Gives the candidate copies or users; from here its time and the gateway's counters count."""
        line, release, policy = self.line, self.release, self.policy
        assert release.baseline is not None
        now = time.time()
        stage = "shadow" if step.do is Do.SHADOW else f"split-{step.weight}"
        expires = now + policy.lease_seconds
        if step.do is Do.SHADOW:
            plan = plans.mirrored(line, release.model, release.baseline, release.candidate, policy, expires)
        else:
            seconds = self._candidate_timeout(stage)
            arms = release.baseline, release.candidate, step.weight
            plan = plans.split(line, release.model, *arms, policy, expires, seconds)
        if f"began.{stage}" not in release.facts:
            facts = {f"began.{stage}": repr(now), f"gateway.{stage}": json.dumps(counters(line, release.model))}
            if "evaluation_began" not in release.facts:
                facts["evaluation_began"] = repr(now)
            self._noted("", **facts)
        line.gateway.apply(plan)
        return f"version {release.candidate} beside {release.baseline}"

    def _candidate_timeout(self, stage: str) -> float:
        """The seconds that the candidate has in a split; noted with their reason when the stage is entered first."""
        noted = self.release.facts.get(f"{CANDIDATE_TIMEOUT}{stage}")
        if noted is None:
            found = candidate_timeout(self.policy, shadow_of(self.scratch))
            noted = f"{found.seconds!r} s: {found.why}"
            self._noted("", **{f"{CANDIDATE_TIMEOUT}{stage}": noted})
        return float(noted.partition(" ")[0])

    def _look(self, step: Step) -> str:
        from flows.release.check import reference_of

        if self._watch is None:
            arms = {
                arm: prepare.prepare(self.line, self.release.model, version, self.policy)
                for arm, version in (("baseline", self.release.baseline), ("candidate", self.release.candidate))
                if version is not None
            }
            reference = reference_of(self.line, arms["candidate"], self.policy)
            self._watch = Watch(self.line, self.policy, arms, reference.path, self.scratch)
        show = self.teller.progress(self.release.model, self.release.candidate, step.stage)
        verdict = self._watch.stage(self.release, step.stage, show)
        return self._stage_ended(step.stage, verdict)

    def _ask(self) -> str:
        if self.teller.approve is None:
            return self._noted("nobody can be asked here", approved="no", approver="nobody could be asked")
        until = float(self.release.facts.get("waiting_until") or time.time() + self.policy.approval_seconds)
        self._noted("", waiting_until=repr(until))
        answer = self.teller.approve(self.release)
        return self._noted(
            f"{'promote' if answer.promote else 'roll back'}: {answer.reason}",
            approved="yes" if answer.promote else "no",
            approval_reason=answer.reason[:2000],
        )

    def _bake(self, version: str) -> str:
        """The previous version stays warm; a rollback asked for meanwhile takes the release over."""
        until = float(self.release.facts["committed_at"]) + self.policy.bake_seconds
        while (left := until - time.time()) > 0:
            self.line.ledger.heartbeat(self.release, time.time())
            time.sleep(min(left, 1.0))
        return self._noted(f"version {version} answered alone for {self.policy.bake_seconds:g} s", baked="yes")

    def _close(self) -> str:
        """Evidence into the ledger, then the record; the release is over when its run has ended."""
        ledger, folder = self.line.ledger, self.scratch
        for name in ("evidence", "drift"):
            for kept in sorted((folder / name).iterdir()) if (folder / name).is_dir() else ():
                if kept.is_dir():
                    ledger.keep(self.release, f"{name}/{kept.name}", kept)
        if (folder / "drift").is_dir():
            ledger.keep(self.release, "drift", folder / "drift")
        facts = self.release.facts
        outcome = CLOSED_AS[Outcome(facts["decision"])]
        self.release = ledger.close(self.release, outcome, facts.get("reason", ""), kept_verdicts(folder))
        return f"{outcome}: {facts.get('reason', '')}"


def _against(release: Release) -> bool:
    return release.facts.get("decision") not in (None, "", Outcome.PROMOTE)


def _version(step: Step) -> str:
    assert step.version is not None, f"{step} names no version"
    return step.version
