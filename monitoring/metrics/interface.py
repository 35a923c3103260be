"""What a metric is given, and what it may say besides a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Levels:
    """The chance of error a metric may spend in one window, over all looks, in each direction."""

    promote: float  # every metric must agree to promote, so each may spend the whole
    rollback: float  # any metric may roll back, so each has its share


@dataclass(frozen=True)
class Silent:
    """A metric that is not required and cannot say anything: left out of the verdict, said in a note."""

    metric: str
    why: str
    numbers: Mapping[str, float | int | str | None] = field(default_factory=dict)
