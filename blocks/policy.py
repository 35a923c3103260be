"""PolicyBlock: a release policy as a Prefect block, with a typed form in the UI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect.blocks.core import Block
from pydantic import Field

from bentos.policy.load import load_policy, parse_policy
from bentos.policy.release import ReleasePolicy


class PolicyBlock(Block):
    """The release policy of one model. The YAML file is the source where a folder is named; else ``values`` are."""

    _block_type_name = "Shipway release policy"
    _block_type_slug = "shipway-release-policy"
    _description = "What a version of a model must show before it is promoted."

    folder: Path | None = Field(None, description="Folder with <model>.yaml and default.yaml; it wins over values.")
    values: dict[str, Any] = Field(
        default_factory=dict, description="Policy keys as in docs/policy.md; empty is the documented default."
    )

    def policy(self, model: str) -> tuple[ReleasePolicy, str]:
        """The checked policy of *model* and where it came from. Raises PolicyError naming the key at fault."""
        if self.folder is not None:
            return load_policy(self.folder, model)
        return parse_policy(self.values, where="block values"), "block values"
