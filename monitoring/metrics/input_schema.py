"""Input schema: the share of live input rows that the candidate's signature does not admit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bentos.policy.metrics import SchemaMetric
from monitoring.interface import MetricVerdict, Outcome
from monitoring.metrics.interface import Levels
from monitoring.metrics.sequential import rate_evidence

if TYPE_CHECKING:
    from monitoring.evidence.evidence import Evidence

METRIC = "input_schema"
PRIOR = 20.0  # prior observations: decides from about a hundred rows on


def judge(evidence: Evidence, policy: SchemaMetric, levels: Levels) -> MetricVerdict:
    """ROLLBACK when the share of invalid rows is shown to be above ``max_invalid``, PROMOTE when shown to be below it.

    A bound of 0 is refuted by one row, and met by none in a window; a bound of 1 is met by any window.
    """
    rows, invalid, most = len(evidence.inputs), evidence.invalid_rows, policy.max_invalid
    found: dict[str, float | int | str | None] = {"rows": rows, "invalid": invalid, "max_invalid": most}
    if not rows:
        return MetricVerdict(METRIC, Outcome.INCONCLUSIVE, "no input rows yet", found)
    share = invalid / rows
    found["share"] = share
    words = f"invalid input rows {share:.3f}"
    if most <= 0.0 or most >= 1.0:
        above, below = (share > most), (share <= most)
    else:
        more = rate_evidence(invalid, rows, rate=most, side="greater", prior=PRIOR)[0]
        fewer = rate_evidence(invalid, rows, rate=most, side="less", prior=PRIOR)[0]
        above, below = more >= math.log(1 / levels.rollback), fewer >= math.log(1 / levels.promote)
    if above:
        return MetricVerdict(METRIC, Outcome.ROLLBACK, f"{words} > {most:g} (n={rows})", found)
    if below:
        return MetricVerdict(METRIC, Outcome.PROMOTE, f"{words} <= {most:g} (n={rows})", found)
    needs = _needs(invalid, rows, most, levels)
    said = f"about {needs} more rows needed" if needs else "more of the same would not decide it"
    return MetricVerdict(
        METRIC, Outcome.INCONCLUSIVE, f"{words} against {most:g} undecided (n={rows}); {said}", found, needs
    )


def _needs(invalid: int, rows: int, most: float, levels: Levels) -> int | None:
    """Rows until the bound is shown if the share stays as it is."""
    for step in range(1, 60):
        scale = 1.15**step
        more, n = round(invalid * scale), math.ceil(rows * scale)
        if rate_evidence(more, n, rate=most, side="less", prior=PRIOR)[0] >= math.log(1 / levels.promote):
            return n - rows
    return None
