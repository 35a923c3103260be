"""What an image is, how one is made here, and what can go wrong.

ImageError
├── TransientImageError   the engine, the registry or the package index is away
└── PermanentImageError   it cannot be built as asked, was refused, or is not what it says it is
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr

from bentos.policy.build import ImagePolicy
from bentos.sealing.bento import SealedBento
from bentos.serving import egress
from bentos.serving.errors import PermanentError, ShipwayError, TransientError
from bentos.versions.model_version import ModelVersion


class ImageError(ShipwayError):
    """Base of what images raise."""


class TransientImageError(ImageError, TransientError):
    """The engine, the image registry or the package index is away; the same call may succeed later."""


class PermanentImageError(ImageError, PermanentError):
    """The image cannot be had as asked; the message says what was found, what was expected and what to do."""


@dataclass(frozen=True)
class Image:
    """An image that an engine has.

    *reference* is what is deployed and never a tag: ``repository@sha256:…`` of a pushed image, else the local id
    ``sha256:…``. *tag* is for people, *size* in bytes, *sbom* the CycloneDX document (JSON), None where none was made.
    """

    reference: str
    tag: str
    size: int = 0
    sbom: Path | None = None


class ImageSettings(BaseModel):
    """How images are built here. Nothing of this is written into an image but the base's own content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str = Field(
        "python:3.11-slim-bookworm",
        description="Image that every other one starts from: a glibc Linux with python3 and its venv module.",
    )
    index_url: str | None = Field(
        None, description="Package index for builds and starts; None: the one of this machine."
    )
    ca_file: Path | None = Field(
        None, description="Extra certificate authorities (PEM) for that index; None: those that this machine names."
    )
    network: str | None = Field(None, description="Network mode of builds, for example host; None: the engine's own.")
    proxy: str | None = Field(None, description="HTTP(S) proxy of builds; None: the one of this machine.")
    no_proxy: str | None = Field(None, description="Hosts without that proxy; None: those of this machine.")
    builder: Literal["auto", "classic", "buildkit"] = Field(
        "auto", description="auto: BuildKit where the docker command has buildx, else the engine's classic builder."
    )
    repository: str | None = Field(
        None, description="Where images are pushed to, host[:port]/path; None: they stay on the engine."
    )
    _machine_ca_files: tuple[Path, ...] = PrivateAttr(())

    def on_machine(self, environ: Mapping[str, str]) -> ImageSettings:
        """These settings, with what *environ* and pip.conf say of index, authorities and proxy where they say nothing."""
        said = egress.proxies(environ)
        proxy = said.get("HTTPS_PROXY") or said.get("HTTP_PROXY") or said.get("ALL_PROXY")
        made = self.model_copy(
            update={
                "index_url": self.index_url or egress.index_url(environ),
                "proxy": self.proxy or proxy,
                "no_proxy": self.no_proxy or (said.get("NO_PROXY") if self.proxy is None else None),
            }
        )
        made._machine_ca_files = egress.authority_files(environ)
        return made

    @property
    def ca_files(self) -> tuple[Path, ...]:
        """The files of extra certificate authorities."""
        return self._machine_ca_files if self.ca_file is None else (self.ca_file.expanduser(),)


class RegistryLogin(BaseModel):
    """How to log in to an image registry."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    username: str
    password: SecretStr


class Images(Protocol):
    """Makes the image of a sealed bento."""

    def ensure(self, bento: SealedBento, version: ModelVersion, policy: ImagePolicy) -> Image:
        """The image for *bento* under *policy*; built (and pushed, where the settings name a repository) unless it is
        there already. Raises TransientImageError and PermanentImageError; nothing half-made is left."""
        ...
