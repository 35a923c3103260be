"""What the demo shows: which version is released against which days, and what it must come to.

Every version meets only days after those it was trained on. Version 4 is mirrored on mild October days without a gap in
the weather, and split from 20 November on: the first frosts, rain that leaves gaps in the pressure, and hard frost on the
24th.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from examples.flights.data import Period
from examples.flights.replay import Scene

POLICIES = Path(__file__).resolve().parent / "policies"
RATE = 60.0  # requests a second
HELD_OUT = Period("12-01", "12-31")  # scored in a batch at the end; no version was trained on it
AFTERWARDS = Scene("afterwards", "12-01", stride=7)  # traffic during the rollback and the batch


@dataclass(frozen=True)
class Act:
    """One release of the demo. ``scenes``: what is replayed from its start, and from a stage's beginning on."""

    version: int
    expected: str  # PROMOTE or ROLLBACK
    stage: str = ""  # where a ROLLBACK must be decided: shadow or split
    scenes: Mapping[str, Scene] = field(default_factory=dict)  # "start", "shadow", "split"


PLAN = (
    Act(1, "PROMOTE"),
    Act(2, "PROMOTE", scenes={"start": Scene("version 2", "07-01", stride=3)}),
    Act(3, "ROLLBACK", "shadow", {"start": Scene("version 3", "09-01", stride=3)}),
    Act(
        4,
        "ROLLBACK",
        "split",
        {
            "start": Scene("version 4", "10-18"),
            "shadow": Scene("version 4", "10-27"),
            "split": Scene("version 4", "11-20", stride=4),
        },
    ),
)
