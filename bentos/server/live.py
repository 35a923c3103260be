"""Live: one loaded, warm model version with everything its server needs to answer for it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson

from bentos.coerced import Coerced
from bentos.loaders.interface import PredictError, Prediction
from bentos.runner import ModelRunner
from bentos.signature import InputError, read_mlmodel
from bentos.wire import openapi
from bentos.wire.doubles import Doubles

CHEAP_SECONDS = 5e-6  # joining requests and cutting their answers apart costs each of them about as much
LARGEST_BATCH = 4096
_PROBED = (1, 8, 32)
_JOINED = (2, 3, 5, 8, 32)


@dataclass(frozen=True)
class Live:
    """A version that answers. A request keeps the Live it began with, whatever is swapped in meanwhile.

    ``curve`` is what one predict of so many rows took once warm, in seconds; empty where the model refuses the rows that
    could be tried. ``rowwise`` says that rows answered together are, to the bit, those answered alone, ``rowwise_chances``
    that so are their probabilities.
    """

    runner: ModelRunner
    model: str
    version: str
    mlflow_version: str  # the one the model was logged with
    probabilities: bool  # whether the model gives class probabilities
    curve: Mapping[int, float]
    rowwise: bool
    rowwise_chances: bool = False

    @cached_property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Who answered, as response headers."""
        return (
            (b"x-shipway-model", quote(self.model, safe=" !#$&'()*+,/:;=?@[]").encode()),
            (b"x-shipway-version", quote(self.version, safe=" ").encode()),
        )

    @cached_property
    def openapi(self) -> bytes:
        """The OpenAPI document of its server."""
        return orjson.dumps(openapi.describe(self.runner.signature, self.model, self.version))

    @cached_property
    def documentation(self) -> bytes:
        """The page that shows it."""
        return openapi.page(openapi.describe(self.runner.signature, self.model, self.version)).encode()

    @cached_property
    def doubles(self) -> Doubles | None:
        """The reader of JSON straight into an array, where the signature allows it."""
        return Doubles.of(self.runner.plan)

    @cached_property
    def defaults(self) -> Mapping[str, Any]:
        """The params of a request that gives none."""
        return self.runner.plan.coerce_params(None)

    @cached_property
    def joins(self) -> bool:
        """Whether requests are better answered together than one by one."""
        one, eight = self.seconds(1), self.seconds(8)
        return self.rowwise and one > CHEAP_SECONDS and eight < 0.6 * 8 * one

    @cached_property
    def most_rows(self) -> int:
        """How many rows one predict may have: as many as it answers in 50 ms or in 16 times what one row takes."""
        allowed = max(0.05, 16 * self.seconds(1))
        rows = LARGEST_BATCH
        while rows > 1 and self.seconds(rows) > allowed:
            rows //= 2
        return rows

    @cached_property
    def _line(self) -> tuple[float, float]:
        """Seconds of a predict with no rows, and of each row, by the ends of the curve."""
        if not self.curve:
            return float("inf"), 0.0
        least, most = min(self.curve), max(self.curve)
        each = max(0.0, (self.curve[most] - self.curve[least]) / (most - least)) if most > least else self.curve[least]
        return max(0.0, self.curve[least] - least * each), each

    def seconds(self, rows: int) -> float:
        """About what one predict of *rows* rows takes; infinity where nothing could be measured."""
        base, each = self._line
        return base + rows * each

    @staticmethod
    def load(folder: Path, model: str = "", version: str = "") -> Live:
        """Loads and warms the sealed bento or artifact folder at *folder*.

        *model* and *version* name a bare artifact folder; a sealed bento knows its own. Raises what ``ModelRunner.load``
        and ``warm`` raise: SignatureError, LoadError, InputError, PredictError.
        """
        runner = ModelRunner.load(folder)
        runner.warm()
        mlmodel = read_mlmodel(runner.folder)
        rows = _rows(runner)
        curve, rowwise, chances = _measured(runner, rows)
        return Live(
            runner,
            runner.model or model or "model",
            runner.version or version or "0",
            str(mlmodel.get("mlflow_version", "")),
            _has_probabilities(runner, rows),
            curve,
            rowwise,
            chances,
        )


def _rows(runner: ModelRunner) -> Coerced:
    example = runner.example()
    return runner.plan.coerce(runner.plan.synthetic() if example is None else example)


def _has_probabilities(runner: ModelRunner, rows: Coerced) -> bool:
    try:
        return runner.answer(rows, runner.plan.coerce_params(None), probabilities=True).probabilities is not None
    except (InputError, PredictError):  # a model may refuse the synthetic row
        return False


def _measured(runner: ModelRunner, rows: Coerced) -> tuple[Mapping[int, float], bool, bool]:
    """The curve, and whether rows may be joined without and with probabilities: as sealed, else tried now."""
    profile = runner.profile
    if profile.curve:
        return profile.curve, profile.rowwise, profile.rowwise_chances
    params = runner.plan.coerce_params(None)
    curve: dict[int, float] = {}
    try:
        for count in _PROBED:
            many = Coerced.join([rows.slice(0, 1)] * count)
            best = float("inf")
            for _ in range(3):
                started = time.perf_counter()
                runner.answer(many, params)
                best = min(best, time.perf_counter() - started)
            curve[count] = best
        both = _rowwise(runner, probabilities=True)
        return curve, both or _rowwise(runner, probabilities=False), both
    except (InputError, PredictError, ValueError):
        return curve if len(curve) == len(_PROBED) else {}, False, False


def _rowwise(runner: ModelRunner, *, probabilities: bool) -> bool:
    """Whether random rows answered together get, to the bit, what each gets alone: a matrix product of several rows adds
    up in another order. Only models over floating point are tried; others join rows where their bento says so."""
    plan, params, rows = runner.plan, runner.plan.coerce_params(None), max(_PROBED)
    if plan.uniform is None or plan.uniform.kind != "f":
        return False
    drawn = np.random.default_rng(0).standard_normal((rows, len(plan.columns)))
    data = plan.whole(drawn.astype(plan.uniform))

    def answered(start: int, stop: int) -> Prediction:
        return runner.answer(data.slice(start, stop), params, probabilities=probabilities)

    alone = [_bits(answered(row, row + 1)) for row in range(rows)]
    for size in _JOINED:
        for start in range(0, rows - size + 1, size):
            made = answered(start, start + size)
            if made.rows != size or [_bits(made.slice(n, n + 1)) for n in range(size)] != alone[start : start + size]:
                return False
    return True


def _bits(made: Prediction) -> list[Any]:
    arrays = [*made.outputs().values(), *([] if made.probabilities is None else [made.probabilities])]
    return [array.tolist() if array.dtype == object else array.tobytes() for array in arrays]
