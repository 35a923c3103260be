"""The traffic plans a release goes through."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.release.world import deployed
from infra.targets.interface import Deployment, PermanentTargetError, State
from infra.traffic import Arm, ArmName, TrafficPlan

if TYPE_CHECKING:
    from bentos.policy.release import ReleasePolicy
    from flows.release.line import Line


def alone(line: Line, model: str, version: str, policy: ReleasePolicy) -> TrafficPlan:
    """Every request to one version."""
    arm = _arm("baseline", _answering(line, model, version), weight=100)
    return TrafficPlan(model, (arm,), sticky=policy.split.sticky, limits=policy.limits)


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
        sticky=policy.split.sticky,
        limits=policy.limits,
        expires_at=expires_at,
    )


def split(
    line: Line, model: str, baseline: str, candidate: str, weight: int, policy: ReleasePolicy, expires_at: float
) -> TrafficPlan:
    """*weight* percent of the users go to the candidate; *expires_at* in unix seconds."""
    return TrafficPlan(
        model,
        (
            _arm("baseline", _answering(line, model, baseline), weight=100 - weight),
            _arm("candidate", _answering(line, model, candidate), weight=weight),
        ),
        sticky=policy.split.sticky,
        limits=policy.limits,
        expires_at=expires_at,
    )


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
