"""TargetBlock: where versions run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from prefect.blocks.core import Block
from pydantic import Field

from infra.targets.interface import Target


class TargetBlock(Block):
    """A place that runs model servers."""

    _block_type_name = "Shipway target"
    _block_type_slug = "shipway-target"
    _description = "Where model versions run: processes on this machine."

    kind: Literal["process"] = Field("process", description="What runs a version: a supervised process.")
    folder: Path = Field(description="Folder of the target's state, one private folder per deployment.")
    segments: Path = Field(description="Folder that servers write the raw prediction log to.")

    def client(self) -> Target:
        """The target; nothing is started yet."""
        from infra.targets.process import ProcessTarget

        return ProcessTarget(self.folder, segments=self.segments)
