"""MemoryGateway: the gateway seam without Envoy, for tests of what stands on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from infra.gateways.interface import ArmStats, PermanentGatewayError, TransientGatewayError
from infra.traffic import Arm, TrafficPlan

NOTHING = ArmStats(0, 0, 0, 0, 0, 0, healthy=True)


class MemoryGateway:
    """*is_ready* says of a deployment's name whether it may get traffic; ``MemoryTarget.is_ready`` fits."""

    def __init__(self, is_ready: Callable[[str], bool]) -> None:
        self._is_ready = is_ready
        self._plans: dict[str, TrafficPlan] = {}
        self._stats: dict[str, ArmStats] = {}
        self.history: list[TrafficPlan] = []  # every plan that was live, oldest first

    def count(self, deployment: str, stats: ArmStats) -> None:
        """Sets the counters of one deployment."""
        self._stats[deployment] = stats

    def apply(self, plan: TrafficPlan, timeout: float = 10.0) -> None:
        """Makes *plan* live if every arm that gains weight or a mirror is ready."""
        before = self._plans.get(plan.model)
        if before is not None and before.withdrawn_by(plan):
            self.withdraw(plan.model)
        for arm in plan.arms:
            if self._gains(arm, self._plans.get(plan.model)) and not self._is_ready(arm.deployment):
                raise TransientGatewayError(
                    f"plan of {plan.model}: {arm.deployment} is not ready. The routes are as they were."
                )
        self._set(plan)

    def withdraw(self, model: str) -> None:
        """Returns the model to its baseline where a candidate has traffic."""
        plan = self._plans.get(model)
        if plan is not None and plan.exposed:
            self._set(plan.settled())

    def plan(self, model: str) -> TrafficPlan | None:
        """The live plan."""
        return self._plans.get(model)

    def plans(self) -> Mapping[str, TrafficPlan]:
        """Every live plan."""
        return dict(self._plans)

    def renew(self, model: str, expires_at: float) -> None:
        """Moves the lease's end; PermanentGatewayError where there is no lease."""
        plan = self._plans.get(model)
        if plan is None or plan.expires_at is None:
            raise PermanentGatewayError(f"no lease to renew for {model}: its candidate has no traffic now.")
        self._plans[model] = replace(plan, expires_at=expires_at)

    def lapse(self, now: float) -> list[str]:
        """Returns lapsed models to their baselines."""
        lapsed = [model for model, plan in self._plans.items() if plan.lapsed(now)]
        for model in lapsed:
            self._set(self._plans[model].settled())
        return lapsed

    def remove(self, model: str) -> None:
        """Forgets the model's plan."""
        self._plans.pop(model, None)

    def stats(self, model: str) -> Mapping[str, ArmStats]:
        """What ``count`` set; zeros for other arms of the live plan."""
        plan = self._plans.get(model)
        arms = plan.arms if plan is not None else ()
        return {arm.deployment: self._stats.get(arm.deployment, NOTHING) for arm in arms}

    def _set(self, plan: TrafficPlan) -> None:
        self._plans[plan.model] = plan
        self.history.append(plan)

    def _gains(self, arm: Arm, before: TrafficPlan | None) -> bool:
        if arm.name == "baseline":
            return before is None or before.baseline.deployment != arm.deployment
        old = before.candidate if before is not None else None
        if old is None or old.deployment != arm.deployment:
            return bool(arm.weight or arm.mirror_percent)
        return arm.weight > old.weight or arm.mirror_percent > old.mirror_percent
