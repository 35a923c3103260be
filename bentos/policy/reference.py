"""ReferencePolicy: where the training reference comes from."""

from __future__ import annotations

from pydantic import Field

from bentos.policy.values import Frozen


class ReferencePolicy(Frozen):
    """Where the training reference of a version comes from."""

    artifact: str | None = Field(
        None,
        description="Artifact path (Parquet or CSV) in the version's run. None: 'shipway/reference.parquet', then 'shipway/reference.csv', then the model's input example.",
    )
