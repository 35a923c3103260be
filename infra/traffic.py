"""TrafficPlan: who gets a model's requests, as pure data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bentos.policy.gates import StickyKey
from bentos.policy.serving import Limits, ServingPolicy
from bentos.serving.errors import PermanentError
from infra.targets.interface import Address

ArmName = Literal["baseline", "candidate"]


class TrafficPlanError(PermanentError):
    """A plan that may not be applied; the message names the arm or number at fault."""


@dataclass(frozen=True)
class Arm:
    """One version that may get requests, and how many of a hundred."""

    name: ArmName
    version: str
    deployment: str  # name of the deployment on its target
    address: Address
    weight: int  # percent of live requests, 0 to 100
    mirror_percent: float = 0.0  # share of live requests copied to this arm, its answers dropped


@dataclass(frozen=True)
class TrafficPlan:
    """The arms of one model. ``expires_at`` (unix seconds) makes the candidate's traffic a lease; ``largest_body`` is the
    longest body in bytes that its servers take.

    Weights sum to 100. Only a candidate may be mirrored to, and only beside a baseline. Candidate traffic without an
    expiry is refused: evaluation traffic always is a lease.
    """

    model: str
    arms: tuple[Arm, ...]
    sticky: StickyKey | None = None
    limits: Limits = field(default_factory=Limits)
    expires_at: float | None = None
    largest_body: int = ServingPolicy().largest_body

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if names not in (["baseline"], ["baseline", "candidate"]):
            raise TrafficPlanError(
                f"plan of {self.model}: expected the arm baseline, or baseline and candidate in that order, found {names}"
            )
        if len({arm.deployment for arm in self.arms}) < len(self.arms):
            raise TrafficPlanError(
                f"plan of {self.model}: baseline and candidate are the same deployment {self.baseline.deployment}; a version needs no release against itself"
            )
        for arm in self.arms:
            if not 0 <= arm.weight <= 100 or not 0 <= arm.mirror_percent <= 100:
                raise TrafficPlanError(
                    f"plan of {self.model}: arm {arm.name} has weight {arm.weight} and mirror {arm.mirror_percent}; both must lie in 0..100"
                )
        total = sum(arm.weight for arm in self.arms)
        if total != 100:
            raise TrafficPlanError(
                f"plan of {self.model}: weights must sum to 100, found {' + '.join(str(arm.weight) for arm in self.arms)} = {total}"
            )
        if self.baseline.mirror_percent:
            raise TrafficPlanError(
                f"plan of {self.model}: only a candidate can be mirrored to, found a mirror to the baseline"
            )
        if self.exposed and self.expires_at is None:
            raise TrafficPlanError(
                f"plan of {self.model}: candidate traffic is a lease and needs expires_at (unix seconds)"
            )

    @property
    def baseline(self) -> Arm:
        """The arm that answers when nothing else does."""
        return self.arms[0]

    @property
    def candidate(self) -> Arm | None:
        """The arm under evaluation, if any."""
        return self.arms[1] if len(self.arms) > 1 else None

    @property
    def exposed(self) -> bool:
        """Whether a candidate gets any traffic."""
        arm = self.candidate
        return arm is not None and bool(arm.weight or arm.mirror_percent)

    def withdrawn_by(self, plan: TrafficPlan) -> bool:
        """Whether the candidate here gets traffic, and none at all by *plan*."""
        arm = self.candidate
        if arm is None or not self.exposed:
            return False
        return all(
            other.deployment != arm.deployment or not (other.weight or other.mirror_percent) for other in plan.arms
        )

    @property
    def candidate_timeout(self) -> float:
        """Seconds that the candidate has; where nothing else is said, all that the request has."""
        return self.limits.candidate_timeout_seconds or self.limits.timeout_seconds

    def settled(self) -> TrafficPlan:
        """The same model with all traffic on the baseline: what a lapsed lease returns to."""
        return replace(self, arms=(replace(self.baseline, weight=100),), expires_at=None)

    def lapsed(self, now: float) -> bool:
        """Whether the lease ran out before *now* (unix seconds)."""
        return self.expires_at is not None and now >= self.expires_at

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``from_json`` gives an equal plan back."""
        return {
            "model": self.model,
            "arms": [
                {
                    "name": arm.name,
                    "version": arm.version,
                    "deployment": arm.deployment,
                    "address": {"uds": arm.address.uds, "host": arm.address.host, "port": arm.address.port},
                    "weight": arm.weight,
                    "mirror_percent": arm.mirror_percent,
                }
                for arm in self.arms
            ],
            "sticky": self.sticky.model_dump() if self.sticky else None,
            "limits": self.limits.model_dump(),
            "expires_at": self.expires_at,
            "largest_body": self.largest_body,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrafficPlan:
        """Reads what ``to_json`` wrote; raises TrafficPlanError where it is no valid plan."""
        try:
            arms = tuple(Arm(**{**arm, "address": Address(**arm["address"])}) for arm in values["arms"])
            sticky = StickyKey(**values["sticky"]) if values["sticky"] else None
            limits = Limits(**values["limits"])
            return cls(values["model"], arms, sticky, limits, values["expires_at"], values["largest_body"])
        except (KeyError, TypeError, ValueError) as error:
            raise TrafficPlanError(f"not a traffic plan: {error!r}") from error
