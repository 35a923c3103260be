"""The latency profile: what one predict of n rows costs, and whether joined rows answer what they answer alone."""

from __future__ import annotations

import time
import warnings

from bentos.runtimes.equivalence import answered, bits_equal
from bentos.serving.inputs.rows import InputRows
from bentos.serving.model.interface import Prediction
from bentos.serving.model.runner import ModelRunner

ROWS = (1, 8, 32, 100)
SECONDS = 0.25  # spent on one point of the profile
LEAST, MOST = 3, 2_000  # calls of one point
JOINED = (2, 3, 5, 8, 32)
LEAST_ALONE = 64
ALONE = 2_000  # rows asked alone, at most
ALONE_SECONDS = 2.0  # … for so long


def measure(runner: ModelRunner, data: InputRows, sizes: tuple[int, ...] = ROWS) -> dict[str, float]:
    """Rows → seconds of one answer, the best of several; of the first rows of ``data``, repeated where it has fewer."""
    found = {}
    for size in sizes:
        rows = repeated(data, size)
        best, began = float("inf"), time.perf_counter()
        for call in range(MOST):
            started = time.perf_counter()
            runner.answer(rows, {})
            ended = time.perf_counter()
            best = min(best, ended - started)
            if call + 1 >= LEAST and ended - began > SECONDS:
                break
        found[str(size)] = float(f"{best:.4g}")
    return found


def rowwise(runner: ModelRunner, data: InputRows, *, probabilities: bool) -> bool:
    """Whether rows of ``data``, answered joined, are to the bit what they are alone; ``probabilities`` with them or not."""
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        singles: list[InputRows] = []
        alone: list[Prediction | str] = []
        for row in range(min(data.rows, ALONE)):
            singles.append(data.slice(row, row + 1))
            alone.append(answered(runner, singles[-1], probabilities=probabilities))
            if row >= LEAST_ALONE and time.perf_counter() - began > ALONE_SECONDS:
                break
        rows = len(alone)
        for size in JOINED:
            for start in range(0, rows - size + 1, size):
                joined = answered(runner, InputRows.join(singles[start : start + size]), probabilities=probabilities)
                if not isinstance(joined, Prediction):
                    return False
                for row in range(size):
                    one = alone[start + row]
                    if not isinstance(one, Prediction) or not bits_equal(one, joined.slice(row, row + 1)):
                        return False
    return rows >= JOINED[0]


def repeated(data: InputRows, rows: int) -> InputRows:
    """The first ``rows`` rows of ``data``, from the start again where it has fewer."""
    if data.rows >= rows:
        return data.slice(0, rows)
    times, rest = divmod(rows, data.rows)
    return InputRows.join([data] * times + ([data.slice(0, rest)] if rest else []))
