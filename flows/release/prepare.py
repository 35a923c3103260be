"""From the registry to a server that answers: vet, environment, bento, deployment. Each an ensure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bentos.policy.build import ImagePolicy
from bentos.policy.serving import ServingPolicy
from bentos.sealing.lock import lock_for
from bentos.serving.errors import PermanentError
from bentos.serving.files import write_atomically
from flows.release.durations import Durations
from flows.release.world import deployed
from infra.targets.interface import Deployment, DeploymentSpec, State

if TYPE_CHECKING:
    from bentos.policy.gates import SignaturePolicy
    from bentos.policy.release import ReleasePolicy
    from bentos.sealing.bento import SealedBento
    from bentos.serving.model.profile import Profile
    from bentos.versions.model_version import ModelVersion
    from flows.release.line import Line
    from flows.release.signature import Proof
    from infra.images.interface import Image

READY_SECONDS = 120.0  # a server that does not answer this long after its start has failed
DRAIN_SECONDS = 10.0


class VetRefusedError(PermanentError):
    """A version whose files may not be loaded; the message names every finding."""


class ChangedVersionError(PermanentError):
    """A registered version whose files are not those that its release was opened for."""


@dataclass(frozen=True)
class Prepared:
    """A version ready to run: its files, its environment and its sealed bento."""

    version: ModelVersion
    artifacts: Path
    python: Path  # the interpreter of its server's environment
    bento: SealedBento
    image: Image | None = None  # None where the target runs no images
    image_policy: ImagePolicy = field(default_factory=ImagePolicy)
    serving: ServingPolicy = field(default_factory=ServingPolicy)
    durations: Mapping[str, float] = field(default_factory=dict)  # seconds by what was made

    @property
    def code(self) -> Path:
        """Folder to put on the path of a process of the model's environment."""
        return self.bento.path / "src"

    @property
    def runtime(self) -> str:
        """What answers: native, onnx, gtil or pyfunc."""
        return self.bento.facts["runtime"]

    def runtime_facts(self) -> dict[str, str]:
        """What a release's record says of the runtime: which one, and why."""
        return {"runtime": self.runtime, "runtime_reason": self.profile.reason[:4000]}

    @property
    def profile(self) -> Profile:
        """What was measured of the runtime."""
        from bentos.serving.model.profile import Profile

        return Profile.read(self.bento.source / "runtime")

    def spec(self) -> DeploymentSpec:
        """What the target is asked to run."""
        return DeploymentSpec(
            model=self.version.model,
            version=self.version.version,
            bento=str(self.bento.path),
            bento_digest=self.bento.digest,
            python=str(self.python),
            image=self.image.reference if self.image is not None else "",
            model_digest=self.version.digest,
            pulled=self.image is not None and self.image_policy.model == "pulled",
            resolved=self.image is not None and self.image_policy.dependencies == "resolved",
            arguments=self.serving.arguments(),
        )


def vet_version(line: Line, model: str, version: str, policy: ReleasePolicy) -> str:
    """Checks the version's signature where the policy asks for one, then scans its files; neither loads them. Returns
    what was found.

    The same files that passed the same scanners under the same vet policy, and the same signature, are not scanned
    again; a signature is checked each time. Raises VetRefusedError naming every finding, KeyFileError and
    SigningExtraError where the check itself cannot be made.
    """
    from bentos.vet.vet import scanner_digest, vet

    found = line.registry.resolve(model, version=version)
    deciding = [found.digest, policy.vet.model_dump_json(), scanner_digest()]
    signed = ""
    if policy.signature.method != "none":
        proof = _proven(line, found, policy.signature)
        deciding += [policy.signature.model_dump_json(), proof.digest]
        signed = f", {proof.who}, signature {proof.digest}"
    key = hashlib.sha256(" ".join(deciding).encode()).hexdigest()
    kept = line.settings.root / "vets" / f"{key[:32]}.txt"
    if kept.exists():
        return f"{found.name}: {kept.read_text()}{signed}"
    report = vet(line.registry.fetch(found), policy.vet)
    if not report.passed:
        raise VetRefusedError(f"vet refused {found.name}: {report.reason}")
    said = f"{found.flavor}, {found.digest[:19]}, passed {', '.join(report.scanners)}"
    write_atomically(kept, said)
    return f"{found.name}: {said}{signed}"


def _proven(line: Line, found: ModelVersion, policy: SignaturePolicy) -> Proof:
    """The signature of the version, which holds; what speaks against the version itself refuses it."""
    from bentos.vet.signing import BadSignatureError, ChangedError, UnsignedError, WrongSignerError
    from flows.release.signature import check_signature

    try:
        return check_signature(line.registry, line.ledger.runs, found, policy)
    except (UnsignedError, ChangedError, WrongSignerError, BadSignatureError) as refused:
        raise VetRefusedError(f"vet refused {found.name}: {refused}") from refused


def start_ahead(line: Line, found: ModelVersion, policy: ReleasePolicy) -> None:
    """Starts what tries the runtimes of *found*, its libraries imported while the vet reads the files; only in an
    environment that is there already."""
    from bentos.children import ahead
    from bentos.sealing.lock import known_python
    from bentos.serving.environments.requirements import CONVERTERS

    converters = CONVERTERS.get(found.flavor, ()) if policy.build.runtime == "auto" else ()
    python = known_python(line.environments, found, policy.build, converters=converters)
    if python is not None:
        ahead.start(python, "bentos.runtimes.choose", ahead.LIBRARIES.get(found.flavor, ()))


def prepare(line: Line, model: str, version: str, policy: ReleasePolicy, *, checked_next: bool = False) -> Prepared:
    """The sealed bento of a version, its environment, and its image where the target runs images; each is made unless
    it is there. *checked_next*: the child that predicts for the wire check imports its libraries meanwhile."""
    from bentos.children import ahead
    from bentos.sealing.bento import build
    from bentos.sealing.runtime import choose_runtime

    took = Durations()
    with took.measure("fetch"):
        found = line.registry.resolve(model, version=version)
        artifacts = line.registry.fetch(found)
    hashed = line.images is not None
    wanted = policy.build
    if hashed and policy.image.model == "pulled" and wanted.runtime == "auto":
        wanted = wanted.model_copy(
            update={"runtime": "native"}
        )  # its container fetches the registered files, no others
    with took.measure("environment"):
        lock = lock_for(line.environments, found, wanted, hashed=hashed)
    with took.measure("conversion"):
        chosen = choose_runtime(
            found,
            artifacts,
            wanted,
            lock,
            line.environments,
            line.settings.root / "runtimes",
            hashed=hashed,
            reference=lambda: _reference(line, found, artifacts, policy),
        )
    with took.measure("environment"):
        python = line.environments.ensure(chosen.lock)
    if checked_next:
        flavor = "onnx" if chosen.runtime == "onnx" else found.flavor
        ahead.start(python, "bentos.serving.child", ahead.LIBRARIES.get(flavor, ()))
    with took.measure("seal"):
        bento = build(found, artifacts, wanted, chosen.lock, line.settings.bentos, runtime=chosen.folder)
    if line.images is None:
        return Prepared(found, artifacts, python, bento, None, policy.image, policy.serving, took)
    with took.measure("image"):
        image = line.images.ensure(bento, found, policy.image)
    return Prepared(found, artifacts, python, bento, image, policy.image, policy.serving, took)


def bulk_python(line: Line, prepared: Prepared, policy: ReleasePolicy) -> Path:
    """The interpreter that many rows are scored in: the model's own where its profile says that it is sooner done with
    them, else the server's."""
    if not prepared.profile.bulk:
        return prepared.python
    lock = lock_for(line.environments, prepared.version, policy.build, hashed=line.images is not None)
    return line.environments.ensure(lock)


def _reference(line: Line, found: ModelVersion, artifacts: Path, policy: ReleasePolicy) -> Path | None:
    """Rows that a runtime is tried with; None without any. One that was named and is not there is the wire check's to say."""
    from bentos.versions.reference import ReferenceDataError, find_reference

    try:
        return find_reference(line.registry, found, artifacts, policy.reference, line.settings.root / "references").path
    except ReferenceDataError:
        return None


def deploy(
    line: Line,
    model: str,
    version: str,
    policy: ReleasePolicy,
    meanwhile: Callable[[Prepared], None] | None = None,
    *,
    made: Prepared | None = None,
) -> Deployment:
    """A deployment of the version that answers; started unless it runs. *meanwhile* is called while it starts, *made* is what
    this process prepared a moment ago."""
    for deployment in deployed(line, model):
        if deployment.version == version:
            if deployment.state is State.READY:
                return deployment
            if deployment.state is State.STARTING:
                return line.target.ready(deployment.name, READY_SECONDS)
    prepared = made or prepare(line, model, version, policy)
    spec = prepared.spec()
    line.target.ensure(spec)
    if meanwhile is not None:
        meanwhile(prepared)
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
