"""StoreBlock: where release reports and batch answers are kept."""

from __future__ import annotations

import shutil
from pathlib import Path

from prefect.blocks.core import Block
from pydantic import Field

from bentos.errors import PermanentError


class StoreError(PermanentError):
    """A key that leaves the store, or a file that cannot be kept."""


class StoreBlock(Block):
    """An object store; here a folder. Keys are relative paths with forward slashes."""

    _block_type_name = "Shipway store"
    _block_type_slug = "shipway-store"
    _description = "Where release reports are kept and served from."

    folder: Path = Field(description="Folder that holds the objects.")

    def put(self, key: str, source: Path) -> Path:
        """Keeps a copy of *source* (file or folder) under *key*, replacing what was there; returns where it lies."""
        place = (self.folder / key).resolve()
        if not place.is_relative_to(self.folder.resolve()):
            raise StoreError(f"store {self.folder}: key {key!r} leads outside it; expected a relative path.")
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place, dirs_exist_ok=True)
        else:
            shutil.copy2(source, place)
        return place
