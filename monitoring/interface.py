"""The values that pass between the log, the evidence, the verdict and the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from bentos.serving.errors import PermanentError, TransientError

Stage = Literal["replay", "shadow", "split"]


class TransientMonitoringError(TransientError):
    """Evidence or ledger could not be read or written now."""


class PermanentMonitoringError(PermanentError):
    """Evidence or a record that is broken; the message names it."""


class Outcome(StrEnum):
    """What a metric, or a whole release, comes to. The worst wins: ERROR, then ROLLBACK, then INCONCLUSIVE."""

    PROMOTE = "PROMOTE"
    INCONCLUSIVE = "INCONCLUSIVE"
    ROLLBACK = "ROLLBACK"
    ERROR = "ERROR"


SEVERITY = (Outcome.PROMOTE, Outcome.INCONCLUSIVE, Outcome.ROLLBACK, Outcome.ERROR)


def worst(outcomes: list[Outcome]) -> Outcome:
    """The worst of *outcomes*; of none it is INCONCLUSIVE, because silence never promotes."""
    return max(outcomes, key=SEVERITY.index) if outcomes else Outcome.INCONCLUSIVE


@dataclass(frozen=True)
class MetricVerdict:
    """One metric's outcome with the numbers it was decided by."""

    metric: str
    outcome: Outcome
    why: str  # one line with numbers: "error rate 0.084 > 0.000 + 0.010 (n=412)"
    numbers: Mapping[str, float | int | str | None] = field(default_factory=dict)
    needs: int | None = None  # how many more observations until it could decide, where that is known


@dataclass(frozen=True)
class Verdict:
    """The outcome of a stage or a release, per metric and overall. ``baseline`` is "none" for a first version."""

    stage: Stage
    outcome: Outcome
    metrics: tuple[MetricVerdict, ...]
    baseline: str  # version, or "none"
    candidate: str

    @property
    def reason(self) -> str:
        """The lines of the metrics that decided, worst first."""
        deciding = [metric.why for metric in self.metrics if metric.outcome == self.outcome]
        return "; ".join(deciding) or "no metric could decide"

    def to_json(self) -> dict[str, Any]:
        """Plain values, stable under json round trips."""
        return {
            "stage": self.stage,
            "outcome": self.outcome.value,
            "baseline": self.baseline,
            "candidate": self.candidate,
            "reason": self.reason,
            "metrics": [
                {
                    "metric": m.metric,
                    "outcome": m.outcome.value,
                    "why": m.why,
                    "numbers": dict(m.numbers),
                    "needs": m.needs,
                }
                for m in self.metrics
            ],
        }
