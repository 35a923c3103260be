"""ShadowPolicy: how long and how much traffic is mirrored."""

from __future__ import annotations

from pydantic import Field

from bentos.policy.values import Frozen, Percent, Seconds


class ShadowPolicy(Frozen):
    """Mirrored traffic: the candidate answers copies, nobody sees its answers."""

    percent: Percent = Field(100.0, description="Share of live requests mirrored, in percent; 0 skips the shadow.")
    min_pairs: int = Field(300, ge=1, description="Joined answers needed before the shadow can end well.")
    max_seconds: Seconds = Field(180.0, description="After this long without a verdict the shadow is INCONCLUSIVE.")
