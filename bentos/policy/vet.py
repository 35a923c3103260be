"""VetPolicy: what a model's files may contain."""

from __future__ import annotations

from pydantic import Field

from bentos.policy.values import Frozen


class VetPolicy(Frozen):
    """What the model's files may contain. Anything the scanners cannot read is a refusal."""

    trusted_types: tuple[str, ...] = Field(
        (), description="Fully qualified type names that skops and the pickle scan may accept besides their own lists."
    )
