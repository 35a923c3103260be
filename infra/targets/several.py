"""SeveralTargets: every target of a stack as one, so that a model may move from one to another between two versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from infra.targets.interface import Deployment, DeploymentSpec, PermanentTargetError, Target, TransientTargetError


class SeveralTargets:
    """The target seam over several targets, by name. What runs is found wherever it runs; *chosen* starts what is new.

    Names of deployments hold the digest of what runs, an image's or a bento's, so that one name is on one target only.
    """

    def __init__(self, targets: Mapping[str, Target], chosen: str) -> None:
        if chosen not in targets:
            raise PermanentTargetError(f"target {chosen!r}: expected one of {', '.join(sorted(targets))}.")
        self._targets = dict(targets)
        self._chosen = chosen

    def ensure(self, spec: DeploymentSpec) -> Deployment:
        """Starts *spec* on the chosen target unless it already runs."""
        return self._targets[self._chosen].ensure(spec)

    def ready(self, name: str, timeout: float) -> Deployment:
        """Waits for READY, wherever *name* runs."""
        return self._of(name).ready(name, timeout)

    def drain(self, name: str, timeout: float) -> None:
        """Takes *name* out of service, wherever it runs."""
        self._of(name).drain(name, timeout)

    def remove(self, name: str) -> None:
        """Stops and forgets *name*, wherever it runs."""
        self._of(name).remove(name)

    def list(self) -> Sequence[Deployment]:
        """Every deployment of every target, by name."""
        found = [deployment for target in self._targets.values() for deployment in target.list()]
        return sorted(found, key=lambda deployment: deployment.name)

    def logs(self, name: str, lines: int = 100) -> str:
        """The last *lines* lines of *name*."""
        return self._of(name).logs(name, lines)

    def restore(self) -> Sequence[Deployment]:
        """Starts what should run and does not, on every target."""
        return [deployment for target in self._targets.values() for deployment in target.restore()]

    def stop_all(self, timeout: float = 10.0) -> None:
        """Stops every server of every target; one that is away keeps no other from being stopped, and raises at the end."""
        away: TransientTargetError | None = None
        for target in self._targets.values():
            try:
                target.stop_all(timeout)
            except TransientTargetError as error:
                away = error
        if away is not None:
            raise away

    def _of(self, name: str) -> Target:
        """The target that runs *name*; the chosen one where none does, for its words.

        Raises TransientTargetError where a target that is away may be the one.
        """
        away: TransientTargetError | None = None
        for target in self._targets.values():
            try:
                if any(deployment.name == name for deployment in target.list()):
                    return target
            except TransientTargetError as error:
                away = error
        if away is not None:
            raise away
        return self._targets[self._chosen]
