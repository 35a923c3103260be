"""SplitPolicy: in which steps live traffic moves to the candidate, and what keeps a user on one arm."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from bentos.policy.values import Frozen, Seconds


class StickyKey(Frozen):
    """What keeps one user on one arm while traffic is split."""

    kind: Literal["header", "cookie"] = Field("header", description="Where the key is read from.")
    name: str = Field("x-user-id", min_length=1, description="Name of the header or cookie.")


class SplitPolicy(Frozen):
    """Live traffic moved to the candidate in steps."""

    steps: tuple[Annotated[int, Field(ge=1, le=99)], ...] = Field(
        (10, 50), description="Candidate weights in percent, ascending; empty promotes straight from the shadow."
    )
    min_requests: int = Field(
        150, ge=1, description="Requests assigned to the candidate needed before a step can end well."
    )
    max_seconds: Seconds = Field(180.0, description="After this long without a verdict a step is INCONCLUSIVE.")
    sticky: StickyKey | None = Field(StickyKey(), description="None assigns every request by itself.")

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if list(self.steps) != sorted(set(self.steps)):
            raise ValueError(f"split.steps must ascend without repeats, found {list(self.steps)}")
        return self
