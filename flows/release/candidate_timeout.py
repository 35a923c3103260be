"""How long a candidate of a split may take before the baseline is asked in its place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bentos.policy.release import ReleasePolicy
    from monitoring.evidence.evidence import Evidence

LEAST_SECONDS = 0.5  # below it a busy machine, not a slow model, would be cut off
TIMES = 3.0  # what was measured in one window may be this much slower in the next
LEAST_ANSWERS = 20
QUANTILE = 0.99


@dataclass(frozen=True)
class CandidateTimeout:
    """The time-out in seconds, and why it is that."""

    seconds: float
    why: str


def candidate_timeout(policy: ReleasePolicy, shadow: Evidence | None) -> CandidateTimeout:
    """The policy's own, else derived from the answers in *shadow*: TIMES what the policy's latency gate lets a candidate
    take beside this baseline (without that gate, what it took), at least LEAST_SECONDS.

    The baseline keeps its own time within the request's. Without a shadow the candidate has half of that.
    """
    import numpy as np

    given = policy.limits.candidate_timeout_seconds
    if given is not None:
        return CandidateTimeout(given, "limits.candidate_timeout_seconds of the policy")
    whole = min(policy.limits.timeout_seconds, policy.serving.deadline_seconds)
    candidate, baseline = _answered(shadow)
    if baseline.size < LEAST_ANSWERS:
        why = f"half of the request's {whole:g} s: the shadow has {baseline.size} answers of the baseline"
        return CandidateTimeout(whole / 2, f"{why}, expected at least {LEAST_ANSWERS}")
    own = float(np.quantile(baseline, QUANTILE))
    gate = policy.metrics.latency
    if gate is not None:
        allowed, what = own * gate.max_ratio + gate.slack_ms / 1000, "that metrics.latency allows"
    else:
        allowed, what = float(np.quantile(candidate, QUANTILE)) if candidate.size else own, "that the candidate took"
    wanted = TIMES * max(own, allowed)
    most = max(whole - TIMES * own, whole / 2)
    why = f"{TIMES:g} x the {max(own, allowed):.3f} s {what} beside the baseline's p99 of {own:.3f} s in the shadow"
    why += f" (n={baseline.size})"
    if wanted < LEAST_SECONDS:
        why += f", but at least {LEAST_SECONDS:g} s"
    if max(wanted, LEAST_SECONDS) > most:
        why += f", but at most {most:.3f} s of the request's {whole:g} s, so that the baseline has its time"
    return CandidateTimeout(round(min(max(wanted, LEAST_SECONDS), most), 3), why)


def shadow_of(scratch: Path) -> Evidence | None:
    """The evidence that ended the release's shadow; None where there was none."""
    from monitoring.evidence.evidence import load

    folder = scratch / "evidence" / "shadow"
    return load(folder) if (folder / "evidence.json").exists() else None


def _answered(shadow: Evidence | None) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Seconds of candidate and baseline, of what each answered."""
    import numpy as np

    from monitoring.metrics.latency import samples

    if shadow is None:
        return np.empty(0), np.empty(0)
    candidate, baseline = samples(shadow)
    return candidate[np.isfinite(candidate)] / 1000, baseline[np.isfinite(baseline)] / 1000
