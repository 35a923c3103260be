"""The latency profile: what one predict of n rows costs, and whether joined rows answer what they answer alone."""

from __future__ import annotations

import time
import warnings

import numpy as np

from bentos.serving.inputs.rows import InputRows
from bentos.serving.inputs.signature import InputError
from bentos.serving.model.interface import PredictError, Prediction
from bentos.serving.model.runner import ModelRunner

ROWS = (1, 8, 32, 100)
SECONDS = 0.1  # spent on one point of the profile
LEAST, MOST = 3, 2_000  # calls of one point
JOINED = (2, 3, 5, 8, 32)
LEAST_ALONE = 64
ALONE = 2_000  # rows asked alone, at most
ALONE_SECONDS = 0.5  # … for so long


def measure(
    runner: ModelRunner, data: InputRows, sizes: tuple[int, ...] = ROWS, seconds: float | None = None
) -> dict[str, float]:
    """Rows → seconds of one answer, the best of several; of the first rows of ``data``, repeated where it has fewer.

    ``seconds`` are spent on each of ``sizes`` (None: SECONDS), at least LEAST calls. Raises what the runner does.
    """
    params, seconds, found = runner.plan.coerce_params(None), SECONDS if seconds is None else seconds, {}
    for size in sizes:
        rows = repeated(data, size)
        best, began = float("inf"), time.perf_counter()
        for call in range(MOST):
            started = time.perf_counter()
            runner.answer(rows, params)
            ended = time.perf_counter()
            best = min(best, ended - started)
            if call + 1 >= LEAST and ended - began > seconds:
                break
        found[str(size)] = float(f"{best:.4g}")
    return found


def rowwise(runner: ModelRunner, data: InputRows, *, probabilities: bool) -> bool:
    """Whether rows of ``data``, answered joined, are to the bit what they are alone, and none is refused; ``probabilities``
    with them or not. However many there is time for, they are from all over the data."""
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        singles: list[InputRows] = []
        alone: list[Prediction] = []
        for row, place in enumerate(np.random.default_rng(0).permutation(data.rows)[:ALONE].tolist()):
            singles.append(data.slice(place, place + 1))
            one = answered(runner, singles[-1], probabilities=probabilities)
            if isinstance(one, str):
                return False
            alone.append(one)
            if row >= LEAST_ALONE and time.perf_counter() - began > ALONE_SECONDS:
                break
        rows = len(alone)
        for size in JOINED:
            for start in range(0, rows - size + 1, size):
                joined = answered(runner, InputRows.join(singles[start : start + size]), probabilities=probabilities)
                if isinstance(joined, str) or joined.rows != size:
                    return False
                if not all(bits_equal(alone[start + row], joined.slice(row, row + 1)) for row in range(size)):
                    return False
    return rows >= JOINED[0]


def repeated(data: InputRows, rows: int) -> InputRows:
    """The first ``rows`` rows of ``data``, from the start again where it has fewer."""
    if data.rows >= rows:
        return data.slice(0, rows)
    times, rest = divmod(rows, data.rows)
    return InputRows.join([data] * times + ([data.slice(0, rest)] if rest else []))


def answered(runner: ModelRunner, data: InputRows, *, probabilities: bool = True) -> Prediction | str:
    """What ``runner`` answers to ``data``, or the words it refuses it with."""
    try:
        return runner.answer(data, runner.plan.coerce_params(None), probabilities=probabilities)
    except (InputError, PredictError) as error:
        return str(error)


def bits_equal(one: Prediction, other: Prediction) -> bool:
    """Whether two answers are the same to the bit."""
    pairs = [*zip(one.outputs().values(), other.outputs().values(), strict=True)]
    if one.outputs().keys() != other.outputs().keys() or (one.probabilities is None) != (other.probabilities is None):
        return False
    if one.probabilities is not None and other.probabilities is not None:
        pairs.append((one.probabilities, other.probabilities))
    return all(
        a.dtype == b.dtype
        and a.shape == b.shape
        and (a.tolist() == b.tolist() if a.dtype.kind == "O" else a.tobytes() == b.tobytes())
        for a, b in pairs
    )
