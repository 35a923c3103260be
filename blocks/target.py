"""TargetBlock: where versions run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefect.blocks.core import Block
from pydantic import Field

from blocks.interface import checked
from infra.targets.interface import Target

if TYPE_CHECKING:
    from infra.images.interface import Images, ImageSettings, RegistryLogin


class TargetBlock(Block):
    """A place that runs model servers."""

    _block_type_name = "Shipway target"
    _block_type_slug = "shipway-target"
    _description = "Where model versions run: processes of this machine, or containers of a Docker engine."

    kind: Literal["process", "docker"] = Field(
        "process", description="What runs a version: a supervised process, or a container."
    )
    folder: Path = Field(description="Folder of the target's state, one private folder per deployment.")
    segments: Path = Field(description="Folder that servers write the raw prediction log to.")
    docker: dict[str, Any] = Field(
        default_factory=dict, description="For kind docker: limits and network of the containers, as in docs/docker.md."
    )
    images: dict[str, Any] = Field(
        default_factory=dict, description="For kind docker: base, index and repository of images, as in docs/docker.md."
    )
    image_registry: str | None = Field(
        None, description="For kind docker: name of the image registry block with the login for images.repository."
    )

    def client(self, registry_url: str = "", login: RegistryLogin | None = None) -> Target:
        """The target; nothing is started yet. *registry_url*: MLflow as this stack reaches it; *login*: of the image
        registry, for images that the engine has to pull.

        Raises BlockError for docker settings that cannot be used.
        """
        if self.kind == "process":
            from infra.targets.process.target import ProcessTarget

            return ProcessTarget(self.folder, segments=self.segments)
        from infra.targets.docker.settings import DockerSettings
        from infra.targets.docker.target import DockerTarget

        chosen = checked(DockerSettings, self.docker, "docker")
        if chosen.registry_url is None:
            chosen = chosen.model_copy(update={"registry_url": registry_url or None})
        return DockerTarget(
            self.folder, segments=self.segments, settings=chosen, images=self._image_settings(), login=login
        )

    def builder(self, records: Path, login: RegistryLogin | None = None) -> Images | None:
        """What makes images for this target, None where it runs none. *records*: folder of what is known of images."""
        if self.kind == "process":
            return None
        from infra.images.builder import ImageBuilder

        return ImageBuilder(self._image_settings(), records, login=login)

    def _image_settings(self) -> ImageSettings:
        from infra.images.interface import ImageSettings

        return checked(ImageSettings, self.images, "images").on_machine(os.environ)
