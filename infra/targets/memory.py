"""MemoryTarget: the target seam without processes, for tests of what stands on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from infra.targets.interface import (
    Address,
    Deployment,
    DeploymentSpec,
    PermanentTargetError,
    State,
    TransientTargetError,
)


class MemoryTarget:
    """Deployments become ready when first waited for, unless told otherwise through the ``make_`` methods."""

    def __init__(self) -> None:
        self._deployments: dict[str, Deployment] = {}
        self._specs: dict[str, DeploymentSpec] = {}
        self._never_ready: dict[str, str | None] = {}
        self._stopped: set[str] = set()

    def make_failing(self, name: str, reason: str) -> None:
        """Lets *name* fail with *reason* when it is next waited for, and now if it exists."""
        self._never_ready[name] = reason
        if name in self._deployments:
            self._deployments[name] = replace(self._deployments[name], state=State.FAILED, reason=reason)

    def make_slow(self, name: str) -> None:
        """Keeps *name* STARTING."""
        self._never_ready[name] = None

    def make_well(self, name: str) -> None:
        """Takes ``make_failing`` or ``make_slow`` back; ``ensure`` starts the deployment again."""
        self._never_ready.pop(name, None)

    def is_ready(self, name: str) -> bool:
        """Whether *name* is READY now; what a MemoryGateway asks before it gives an arm weight."""
        return name in self._deployments and self._deployments[name].state is State.READY

    def ensure(self, spec: DeploymentSpec) -> Deployment:
        """Starts *spec* unless it runs."""
        known = self._deployments.get(spec.name)
        if known is not None and known.state in (State.STARTING, State.READY):
            if self._specs[spec.name] != spec:
                raise PermanentTargetError(f"deployment {spec.name} runs from another spec. Remove it first.")
            return known
        address = Address(uds=f"/memory/{spec.name}.sock")
        self._stopped.discard(spec.name)
        self._specs[spec.name] = spec
        self._deployments[spec.name] = Deployment(
            spec.name, spec.model, spec.version, spec.bento_digest, address, State.STARTING
        )
        return self._deployments[spec.name]

    def ready(self, name: str, timeout: float) -> Deployment:
        """READY at once, or the error that ``make_failing`` and ``make_slow`` ask for."""
        if name not in self._deployments:
            raise PermanentTargetError(f"no deployment {name}. Call ensure with its spec first.")
        deployment = self._deployments[name]
        if name in self._never_ready:
            reason = self._never_ready[name]
            if reason is None:
                raise TransientTargetError(f"deployment {name} is {deployment.state} and not ready after {timeout:g} s")
            self.make_failing(name, reason)
            raise PermanentTargetError(f"deployment {name} failed: {reason}")
        if deployment.state is State.DRAINING:
            raise TransientTargetError(f"deployment {name} is draining and not ready after {timeout:g} s")
        self._deployments[name] = replace(deployment, state=State.READY)
        return self._deployments[name]

    def drain(self, name: str, timeout: float) -> None:
        """Takes the deployment out of service."""
        if name in self._deployments:
            self._deployments[name] = replace(self._deployments[name], state=State.DRAINING)

    def remove(self, name: str) -> None:
        """Forgets the deployment."""
        self._deployments.pop(name, None)
        self._specs.pop(name, None)
        self._stopped.discard(name)

    def list(self) -> Sequence[Deployment]:
        """Every deployment, by name."""
        return [self._deployments[name] for name in sorted(self._deployments)]

    def logs(self, name: str, lines: int = 100) -> str:
        """Nothing: no process writes here."""
        return ""

    def restore(self) -> Sequence[Deployment]:
        """What ``stop_all`` stopped is STARTING again."""
        stopped = [name for name in sorted(self._deployments) if name in self._stopped]
        for name in stopped:
            self._deployments[name] = replace(self._deployments[name], state=State.STARTING, reason="")
        self._stopped.clear()
        return [self._deployments[name] for name in stopped]

    def stop_all(self, timeout: float = 10.0) -> None:
        """Every deployment that runs is FAILED until it is restored or ensured again."""
        for name, deployment in self._deployments.items():
            if deployment.state in (State.STARTING, State.READY):
                self._deployments[name] = replace(deployment, state=State.FAILED, reason="stopped; restore() starts it")
                self._stopped.add(name)
