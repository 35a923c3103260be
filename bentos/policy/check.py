"""CheckPolicy: how equal the answers over the wire must be."""

from __future__ import annotations

from pydantic import Field

from bentos.policy.values import Frozen


class CheckPolicy(Frozen):
    """Answers over the wire against in-process predictions, before any traffic."""

    rows: int = Field(200, ge=1, description="Rows of the reference sent over the wire.")
    tolerance: float = Field(
        1e-9, ge=0, description="Largest absolute difference of numeric answers that counts as equal."
    )
