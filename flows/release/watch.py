"""Watching a stage: the evidence gathers, is looked at every few seconds, and ends in an outcome."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flows.release.world import routes_of
from infra.gateways.interface import PermanentGatewayError
from monitoring.interface import Outcome, Stage, Verdict

if TYPE_CHECKING:
    from bentos.policy.release import ReleasePolicy
    from flows.release.line import Line
    from flows.release.machine import Routes
    from flows.release.prepare import Prepared
    from monitoring.evidence.evidence import Drift, Evidence
    from monitoring.ledger.ledger import Release
    from monitoring.log.pairs import LogReader

Counters = Mapping[str, Mapping[str, int]]  # arm → counter → how often
Show = Callable[[float, str], None]  # progress in percent, and a line about it


class EvaluationEndedError(Exception):
    """The stage's routes are gone: a lapsed lease, another flow or a person moved them; the release looks anew."""


@dataclass
class Watch:
    """One evaluation of a candidate against its baseline, over all its stages.

    The reader lives as long as the flow's process; a flow that resumes reads the log again from where the evaluation
    began, so that nothing is lost with a process. *arms* are baseline and candidate as they run, *reference* is the
    Parquet file of the candidate's training reference, *scratch* the folder that evidence is kept in until the ledger
    has it.
    """

    line: Line
    policy: ReleasePolicy
    arms: Mapping[str, Prepared]
    reference: Path | None
    scratch: Path
    _reader: LogReader | None = field(default=None, repr=False)
    _step: int = 0

    def stage(self, release: Release, stage: str, show: Show) -> Verdict:
        """Looks until *stage* is decided or its time is over, and renews the lease at every look.

        The evidence that decided lies under ``<scratch>/evidence/<stage>``, its verdict in ``<scratch>/verdicts``.
        Raises EvaluationEndedError when the routes are not the stage's any more.
        """
        began = float(release.facts[f"began.{stage}"])
        before: Counters = json.loads(release.facts.get(f"gateway.{stage}", "{}"))
        limit = self.policy.shadow.max_seconds if stage == "shadow" else self.policy.split.max_seconds
        routes = routes_of(self.line.gateway.plan(release.model))
        reader = self._reading(release)
        reader.mark(kind_of(stage), int(began * 1e9))
        if self.policy.metrics.drift is not None:
            threading.Thread(target=_import_evidently, daemon=True).start()
        while True:
            started, now = time.monotonic(), time.time()
            self.line.ledger.heartbeat(release, now)
            self._renew(release, stage, routes, now)
            reader.poll()
            growth = _growth(before, counters(self.line, release.model))
            evidence = reader.evidence(kind_of(stage), gateway=growth, now_ns=time.time_ns(), since_ns=int(began * 1e9))
            over = now - began >= limit
            verdict, evidence = self._judged(evidence, over=over)
            self._log(release, evidence)
            if verdict.outcome is not Outcome.INCONCLUSIVE or over:
                self._keep(stage, evidence, verdict)
                return verdict
            show(100 * (now - began) / limit, verdict.reason)
            time.sleep(max(0.0, self.policy.look_seconds - (time.monotonic() - started)))

    def _renew(self, release: Release, stage: str, routes: Routes | None, now: float) -> None:
        """Holds the lease for another while; raises EvaluationEndedError where there is none any more."""
        try:
            if routes_of(self.line.gateway.plan(release.model)) == routes:
                self.line.gateway.renew(release.model, now + self.policy.lease_seconds)
                return
        except PermanentGatewayError as lapsed:
            raise EvaluationEndedError(f"{stage} of {release.name}: {lapsed}") from lapsed
        raise EvaluationEndedError(f"{stage} of {release.name}: the gateway's routes have changed")

    def _reading(self, release: Release) -> LogReader:
        if self._reader is None:
            from bentos.serving.inputs.signature import load_signature
            from monitoring.log.pairs import LogReader

            self._reader = LogReader(
                self.line.settings.predictions,
                model=release.model,
                baseline=release.baseline,
                candidate=release.candidate,
                since_ns=int(float(release.facts["evaluation_began"]) * 1e9),
                signature=load_signature(self.arms["candidate"].artifacts),
                output=self.policy.metrics.output,
            )
            for fact, began in release.facts.items():
                if fact.startswith("began."):
                    self._reader.mark(kind_of(fact.removeprefix("began.")), int(float(began) * 1e9))
        return self._reader

    def _judged(self, evidence: Evidence, *, over: bool) -> tuple[Verdict, Evidence]:
        """The verdict, and the evidence with what it was decided by.

        Drift costs seconds, so it is computed only once everything else would promote, or when the time is over.
        """
        from monitoring.verdict import judge

        if self.policy.metrics.drift is None:
            return judge(evidence, self.policy), evidence
        metrics = self.policy.metrics.model_copy(update={"drift": None})
        others = judge(evidence, self.policy.model_copy(update={"metrics": metrics})).outcome
        if others is Outcome.PROMOTE or (others is Outcome.INCONCLUSIVE and over):
            evidence = replace(evidence, drift=self._drift(evidence))
        return judge(evidence, self.policy), evidence

    def _drift(self, evidence: Evidence) -> Drift:
        import pandas as pd

        from flows.release.check import reference_answers
        from monitoring.evidence.drift import compute_drift

        assert self.policy.metrics.drift is not None
        columns = [name for name in evidence.inputs.columns if name not in ("seq", "request_id", "assigned")]
        reference = pd.read_parquet(self.reference) if self.reference is not None else None
        answers = None
        if self.reference is not None:
            answers = reference_answers(
                self.reference, self.arms, self.scratch / "reference", self.policy.metrics.output
            )
        html = self.scratch / "drift" / f"{evidence.stage}.html"
        html.parent.mkdir(parents=True, exist_ok=True)
        return compute_drift(
            evidence.inputs[columns],
            evidence.answers[["baseline", "candidate"]],
            reference,
            self.policy.metrics.drift,
            html,
            reference_predictions=answers,
        )

    def _log(self, release: Release, evidence: Evidence) -> None:
        """The look's numbers, as metrics of the release's run over time."""
        requests = evidence.requests[evidence.requests["stage"] == evidence.stage]
        to_candidate = requests["assigned"] == "candidate"
        self._step = max(self._step + 1, int(time.time()) - int(float(release.facts["evaluation_began"])))
        self.line.ledger.metrics(
            release,
            {
                f"{evidence.stage}.requests": float(len(requests)),
                f"{evidence.stage}.pairs": float(requests["mirrored"].astype(bool).sum()),
                f"{evidence.stage}.to_candidate": float(to_candidate.sum()),
                f"{evidence.stage}.fallbacks": float(requests["fallback"].astype(bool).sum()),
                f"{evidence.stage}.labels": float(evidence.answers["label"].notna().sum()),
            },
            self._step,
        )

    def _keep(self, stage: str, evidence: Evidence, verdict: Verdict) -> None:
        evidence.save(self.scratch / "evidence" / stage)
        keep_verdict(self.scratch, stage, verdict)


def keep_verdict(scratch: Path, stage: str, verdict: Verdict) -> None:
    """Leaves the verdict of *stage* where the end of the release finds it, whichever process ends it."""
    folder = scratch / "verdicts"
    folder.mkdir(parents=True, exist_ok=True)
    values = {**verdict.to_json(), "evidence": f"evidence/{stage}"}
    (folder / f"{stage}.json").write_text(json.dumps(values))


def kept_verdicts(scratch: Path) -> list[dict[str, object]]:
    """The verdicts of all stages so far, in the order of the stages."""
    files = sorted((scratch / "verdicts").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    return [json.loads(path.read_text()) for path in files]


def kind_of(stage: str) -> Stage:
    """``split-10`` and ``split-50`` are steps of the stage ``split``."""
    return "shadow" if stage == "shadow" else "split"


def counters(line: Line, model: str) -> dict[str, dict[str, int]]:
    """The gateway's counters of each arm of *model*'s plan as they stand."""
    plan = line.gateway.plan(model)
    stats = line.gateway.stats(model)
    arms = plan.arms if plan is not None else ()
    return {
        arm.name: {name: int(value) for name, value in asdict(stats[arm.deployment]).items() if name != "healthy"}
        for arm in arms
        if arm.deployment in stats
    }


def _growth(before: Counters, now: Counters) -> dict[str, dict[str, int]]:
    """How much each counter grew; a gateway that restarted counts from zero again."""
    return {
        arm: {
            name: value - before.get(arm, {}).get(name, 0) if value >= before.get(arm, {}).get(name, 0) else value
            for name, value in found.items()
        }
        for arm, found in now.items()
    }


def _import_evidently() -> None:
    """Five seconds of import, spent while the evidence gathers and not when it decides."""
    import evidently.metrics  # noqa: F401
