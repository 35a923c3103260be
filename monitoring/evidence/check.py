"""CheckResult: answers over the wire against in-process predictions of the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

LONGEST = 80  # characters of a value in a message


@dataclass(frozen=True)
class CheckResult:
    """How a sample was answered over the wire. ``errors``: rows that got no answer; ``mismatches``: answers that differ."""

    rows: int
    mismatches: int
    largest_difference: float  # of numeric answers; 0 where nothing differs, inf where shapes or kinds do
    errors: int
    tolerance: float
    first: str = ""  # the first difference: where, and both values

    @property
    def equal(self) -> bool:
        """Whether every row was answered, and as in process."""
        return self.rows > 0 and not self.mismatches and not self.errors


@dataclass(frozen=True)
class _Gap:
    """How far two values are from each other; ``said`` names the place and both where that is too far."""

    size: float = 0.0
    said: str = ""


def compare(wire: Sequence[Any] | None, inprocess: Sequence[Any], tolerance: float) -> CheckResult:
    """Compares answer by answer; one differs when any of its values does.

    An answer is a value, or records and lists of values however deep; records of one field are its values. Numbers may differ
    by *tolerance* (absolute; a missing number is NaN, and equals it), all else must be equal. *wire* is None when nothing
    was answered; answers it lacks are errors, and those that it has more are mismatches.
    """
    rows = len(inprocess)
    found = only(wire) if wire is not None else ()
    gaps = [_gap(a, b, tolerance, "") for a, b in zip(found, only(inprocess), strict=False)]
    surplus = max(0, len(found) - rows)
    first = next((f"answer {row}{gap.said}" for row, gap in enumerate(gaps) if gap.said), "")
    if surplus and not first:
        first = f"{len(found)} answers over the wire, {rows} in process"
    largest = max((gap.size for gap in gaps), default=0.0)
    return CheckResult(
        rows,
        sum(bool(gap.said) for gap in gaps) + surplus,
        float("inf") if surplus else largest,
        max(0, rows - len(found)),
        tolerance,
        first,
    )


def only(answers: Sequence[Any]) -> Sequence[Any]:
    """The values of answers that all are records of one field, the same: a nameless output has a name in some forms."""
    while len(answers) and all(isinstance(answer, dict) and len(answer) == 1 for answer in answers):
        if len({name for answer in answers for name in answer}) > 1:
            break
        answers = [next(iter(answer.values())) for answer in answers]
    return answers


def _gap(found: Any, expected: Any, tolerance: float, where: str) -> _Gap:
    if isinstance(found, dict) and isinstance(expected, dict):
        # a field that a record lacks is null in a column of records
        names = dict.fromkeys([*expected, *found])
        return _worst([_gap(found.get(n), expected.get(n), tolerance, f"{where}, {n}") for n in names])
    if _listed(found) and _listed(expected):
        return _gap_of_lists(found, expected, tolerance, where)
    size = _distance(found, expected)
    return _Gap(size) if size <= tolerance else _Gap(size, _said(where, found, expected))


def _gap_of_lists(found: Any, expected: Any, tolerance: float, where: str) -> _Gap:
    if len(found) != len(expected):
        return _Gap(float("inf"), _said(where, found, expected))
    left, right = _numbers(found), _numbers(expected)
    if left is None or right is None or left.shape != right.shape:
        pairs = enumerate(zip(found, expected, strict=True))
        return _worst([_gap(a, b, tolerance, f"{where}[{at}]") for at, (a, b) in pairs])
    if not left.size:
        return _Gap()
    with np.errstate(invalid="ignore"):
        gaps = np.abs(left - right)
    gaps[(left == right) | (np.isnan(left) & np.isnan(right))] = 0.0
    gaps[np.isnan(gaps)] = np.inf
    size = float(gaps.max())
    if size <= tolerance:
        return _Gap(size)
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(gaps > tolerance)), gaps.shape))
    index = "".join(f"[{i}]" for i in place)
    return _Gap(size, _said(f"{where}{index}", left[place].item(), right[place].item()))


def _worst(gaps: Sequence[_Gap]) -> _Gap:
    """The largest of *gaps*, with what the first that is too large says."""
    return _Gap(max((gap.size for gap in gaps), default=0.0), next((gap.said for gap in gaps if gap.said), ""))


def _listed(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _numbers(values: Any) -> npt.NDArray[np.float64] | None:
    """Lists of nothing but numbers as one array of doubles; None for others, and for whole numbers that no double holds."""
    try:
        array = np.asarray(values)
    except ValueError:  # ragged
        return None
    if array.dtype.kind not in "biuf":
        return None
    if array.dtype.kind in "iu" and array.size and (array.max() > 2**53 or array.min() < -(2**53)):
        return None
    return array.astype(np.float64)


def _distance(found: Any, expected: Any) -> float:
    """The absolute difference of two numbers; of all else 0 where they are equal, inf where not."""
    if _missing(found) or _missing(expected):
        return 0.0 if _missing(found) and _missing(expected) else float("inf")
    if not (_number(found) and _number(expected)):
        return 0.0 if type(found) is type(expected) and bool(found == expected) else float("inf")
    if found == expected:
        return 0.0
    gap = abs(float(found) - float(expected))
    return float("inf") if gap != gap else max(gap, float(abs(found - expected)))


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float | np.floating) and value != value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float | np.number | np.bool_)


def _said(where: str, found: Any, expected: Any) -> str:
    return f"{where}: {_short(found)} over the wire, {_short(expected)} in process"


def _short(value: Any) -> str:
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
