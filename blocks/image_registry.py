"""ImageRegistryBlock: the login of an image registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

if TYPE_CHECKING:
    from infra.images.interface import RegistryLogin


class ImageRegistryBlock(Block):
    """A user of an OCI image registry."""

    _block_type_name = "Shipway image registry"
    _block_type_slug = "shipway-image-registry"
    _description = "The login for the repository that images are pushed to and pulled from."

    username: str = Field(description="User of the registry.")
    password: SecretStr = Field(description="Password or access token.")

    def login(self) -> RegistryLogin:
        """The login as a plain value."""
        from infra.images.interface import RegistryLogin

        return RegistryLogin(username=self.username, password=self.password)
