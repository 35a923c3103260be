"""The traffic plans a release goes through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.release.world import deployed
from infra.targets.interface import Deployment, PermanentTargetError, State
from infra.traffic import Arm, ArmName, TrafficPlan

if TYPE_CHECKING:
    from bentos.policy.release import ReleasePolicy
    from flows.release.line import Line


def alone(line: Line, model: str, version: str, policy: ReleasePolicy) -> TrafficPlan:
    """Every request to one version."""
    arm = _arm("baseline", _answering(line, model, version), weight=100)
    return TrafficPlan(model, (arm,), **_common(policy))


def mirrored(
    line: Line, model: str, baseline: str, candidate: str, policy: ReleasePolicy, expires_at: float
) -> TrafficPlan:
    """The baseline answers, the candidate gets copies; *expires_at* in unix seconds."""
    return TrafficPlan(
        model,
        (
            _arm("baseline", _answering(line, model, baseline), weight=100),
            _arm("candidate", _answering(line, model, candidate), mirror=policy.shadow.percent),
        ),
        expires_at=expires_at,
        **_common(policy),
    )


def split(
    line: Line,
    model: str,
    baseline: str,
    candidate: str,
    weight: int,
    policy: ReleasePolicy,
    expires_at: float,
    candidate_timeout: float | None = None,
) -> TrafficPlan:
    """*weight* percent of the users go to the candidate, which has *candidate_timeout* seconds (None: as the policy
    says); *expires_at* in unix seconds."""
    common = _common(policy)
    if candidate_timeout is not None:
        common["limits"] = policy.limits.model_copy(update={"candidate_timeout_seconds": candidate_timeout})
    return TrafficPlan(
        model,
        (
            _arm("baseline", _answering(line, model, baseline), weight=100 - weight),
            _arm("candidate", _answering(line, model, candidate), weight=weight),
        ),
        expires_at=expires_at,
        **common,
    )


def _common(policy: ReleasePolicy) -> dict[str, Any]:
    """What every plan of a model has of its policy."""
    return {
        "sticky": policy.split.sticky,
        "limits": policy.limits,
        "largest_body": policy.serving.largest_body,
    }


def _arm(name: ArmName, deployment: Deployment, *, weight: int = 0, mirror: float = 0.0) -> Arm:
    return Arm(name, deployment.version, deployment.name, deployment.address, weight, mirror)


def _answering(line: Line, model: str, version: str) -> Deployment:
    found = [deployment for deployment in deployed(line, model) if deployment.version == version]
    if not found or found[0].state is not State.READY:
        state = found[0].state.value if found else "absent"
        raise PermanentTargetError(
            f"{model}/{version} gets no traffic: expected a ready deployment, found {state}. See 'shipway status {model}'."
        )
    return found[0]
