"""RegistryBlock: which MLflow registry models come from."""

from __future__ import annotations

from pathlib import Path

from prefect.blocks.core import Block
from pydantic import Field

from bentos.versions.registry import Registry


class RegistryBlock(Block):
    """An MLflow registry and the folder that keeps what was downloaded from it."""

    _block_type_name = "Shipway registry"
    _block_type_slug = "shipway-registry"
    _description = "The MLflow registry that models are released from."

    tracking_uri: str = Field(description="URL of the MLflow tracking server, for example http://127.0.0.1:15500.")
    cache: Path = Field(description="Folder for downloaded artifact trees, one per digest.")

    def client(self) -> Registry:
        """A registry client; nothing is asked of MLflow yet."""
        return Registry(self.tracking_uri, self.cache)
