"""Where a version runs: the seam behind which processes, containers and pods look alike."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from bentos.serving.errors import PermanentError, TransientError


class TransientTargetError(TransientError):
    """The target is busy or away; the same call may succeed later."""


class PermanentTargetError(PermanentError):
    """The deployment cannot run as asked; the message ends with the last lines of its log."""


@dataclass(frozen=True)
class Address:
    """Where a deployment listens: a unix socket, or a host and port."""

    uds: str | None = None
    host: str | None = None
    port: int | None = None

    def __post_init__(self) -> None:
        if (self.uds is None) == (self.host is None or self.port is None):
            raise ValueError(f"an address is a unix socket or a host and port, found {self!r}")

    def __str__(self) -> str:
        return f"unix://{self.uds}" if self.uds else f"http://{self.host}:{self.port}"


class State(StrEnum):
    """How far a deployment has come."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True)
class DeploymentSpec:
    """What should run. Two equal specs are the same deployment."""

    model: str
    version: str
    bento: str  # absolute path of the sealed bento's folder
    bento_digest: str
    python: str  # absolute path of the interpreter of the model's environment
    environment: Mapping[str, str] = field(default_factory=dict)  # extra environment variables of the server
    image: str = ""  # for targets that run containers: `sha256:…` of a local image, or `repository@sha256:…`
    model_digest: str = ""  # digest of the artifact tree; what a container that pulls its model checks it against
    pulled: bool = False  # the image is without the model: its container fetches it
    resolved: bool = False  # the image is without the model's environment: its container makes it
    arguments: tuple[str, ...] = ()  # more options of the launcher, as the policy's ``serving`` gives them

    @property
    def name(self) -> str:
        """Named by content: model, version and eight characters of the digest of the bento, or of bento, image and
        arguments where there are any."""
        digest = self.bento_digest.removeprefix("sha256:")
        if self.image or self.arguments:
            text = " ".join([self.bento_digest, self.image, *self.arguments])
            digest = hashlib.sha256(text.encode()).hexdigest()
        return f"{self.model}-{self.version}-{digest[:8]}"


@dataclass(frozen=True)
class Deployment:
    """One version running on one target, as the target sees it now."""

    name: str
    model: str
    version: str
    bento_digest: str
    address: Address
    state: State
    restarts: int = 0
    reason: str = ""  # why it is FAILED, in one line


class Target(Protocol):
    """Runs versions. Every call is an ensure: repeating it changes nothing."""

    def ensure(self, spec: DeploymentSpec) -> Deployment:
        """Starts *spec* unless it already runs; returns at once, usually STARTING."""
        ...

    def ready(self, name: str, timeout: float) -> Deployment:
        """Waits at most *timeout* seconds for READY; raises PermanentTargetError with the log's end if it fails."""
        ...

    def drain(self, name: str, timeout: float) -> None:
        """Tells the server to finish what is in flight; returns when it has stopped or after *timeout* seconds."""
        ...

    def remove(self, name: str) -> None:
        """Stops and forgets the deployment; nothing of it is left. Unknown names are no error."""
        ...

    def list(self) -> Sequence[Deployment]:
        """Every deployment of this target, found again after anything was killed."""
        ...

    def logs(self, name: str, lines: int = 100) -> str:
        """The last *lines* lines the deployment wrote."""
        ...

    def restore(self) -> Sequence[Deployment]:
        """Starts every deployment that should run and does not; gives those it started."""
        ...

    def stop_all(self, timeout: float = 10.0) -> None:
        """Stops every server, letting requests finish for *timeout* seconds in all; ``restore`` starts them again."""
        ...
