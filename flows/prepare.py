"""From the registry to a server that answers: vet, environment, bento, deployment. Each an ensure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bentos.artifact_tree import write_atomically
from bentos.errors import PermanentError
from flows.world import deployed
from infra.targets.interface import Deployment, DeploymentSpec, State

if TYPE_CHECKING:
    from bentos.build import SealedBento
    from bentos.environment import Environment
    from bentos.model_version import ModelVersion
    from bentos.policy import ReleasePolicy
    from flows.line import Line

READY_SECONDS = 120.0  # a server that does not answer this long after its start has failed
DRAIN_SECONDS = 10.0


class VetRefusedError(PermanentError):
    """A version whose files may not be loaded; the message names every finding."""


@dataclass(frozen=True)
class Prepared:
    """A version ready to run: its files, its environment and its sealed bento."""

    version: ModelVersion
    artifacts: Path
    environment: Environment
    bento: SealedBento

    @property
    def code(self) -> Path:
        """Folder to put on the path of a process of the model's environment."""
        return self.bento.path / "src"

    def spec(self) -> DeploymentSpec:
        """What the target is asked to run."""
        return DeploymentSpec(
            model=self.version.model,
            version=self.version.version,
            bento=str(self.bento.path),
            bento_digest=self.bento.digest,
            python=str(self.environment.python),
        )


def vet_version(line: Line, model: str, version: str, policy: ReleasePolicy) -> str:
    """Scans the version's files without loading them; returns what was scanned.

    The same files that passed the same scanners under the same vet policy are not scanned again. Raises VetRefusedError
    naming every finding.
    """
    from bentos.vet import scanner_digest, vet

    found = line.registry.resolve(model, version=version)
    key = hashlib.sha256(f"{found.digest} {policy.vet.model_dump_json()} {scanner_digest()}".encode()).hexdigest()
    kept = line.settings.root / "vets" / f"{key[:32]}.txt"
    if kept.exists():
        return f"{found.name}: {kept.read_text()}"
    report = vet(line.registry.fetch(found), policy.vet)
    if not report.passed:
        raise VetRefusedError(f"vet refused {found.name}: {report.reason}")
    said = f"{found.flavor}, {found.digest[:19]}, passed {', '.join(report.scanners)}"
    write_atomically(kept, said)
    return f"{found.name}: {said}"


def prepare(line: Line, model: str, version: str, policy: ReleasePolicy) -> Prepared:
    """The sealed bento of a version and its environment; both are made unless they are there."""
    from bentos.build import build

    found = line.registry.resolve(model, version=version)
    artifacts = line.registry.fetch(found)
    lock = line.environments.lock_for(found, policy.build)
    environment = line.environments.ensure(lock)
    return Prepared(found, artifacts, environment, build(found, artifacts, policy.build, lock, line.settings.bentos))


def deploy(line: Line, model: str, version: str, policy: ReleasePolicy) -> Deployment:
    """A deployment of the version that answers; started unless it runs."""
    for deployment in deployed(line, model):
        if deployment.version == version:
            if deployment.state is State.READY:
                return deployment
            if deployment.state is State.STARTING:
                return line.target.ready(deployment.name, READY_SECONDS)
    spec = prepare(line, model, version, policy).spec()
    line.target.ensure(spec)
    return line.target.ready(spec.name, READY_SECONDS)


def remove(line: Line, model: str, version: str) -> list[str]:
    """Drains and removes every deployment of the version; names them."""
    gone = []
    for deployment in deployed(line, model):
        if deployment.version == version:
            line.target.drain(deployment.name, DRAIN_SECONDS)
            line.target.remove(deployment.name)
            gone.append(deployment.name)
    return gone
