"""ServedModel: one loaded, warm model version with everything its server needs to answer for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson

from bentos.serving.inputs.rows import InputRows
from bentos.serving.inputs.signature import InputError, read_mlmodel
from bentos.serving.model import latency_profile
from bentos.serving.model.interface import PredictError
from bentos.serving.model.runner import ModelRunner
from bentos.serving.wire import openapi
from bentos.serving.wire.scoring.doubles import Doubles

CHEAP_SECONDS = 5e-6  # joining requests and cutting their answers apart costs each of them about as much
LARGEST_BATCH = 4096
_PROBED = (1, 8, 32)


@dataclass(frozen=True)
class ServedModel:
    """A version that answers.

    ``latency`` is what one predict of so many rows took once warm, in seconds; empty where the model refuses the rows that
    could be tried. ``rowwise`` says that rows answered together are, to the bit, those answered alone, ``rowwise_probabilities``
    that so are their probabilities.
    """

    runner: ModelRunner
    model: str
    version: str
    mlflow_version: str  # the one the model was logged with
    probabilities: bool  # whether the model gives class probabilities
    latency: Mapping[int, float]
    rowwise: bool
    rowwise_probabilities: bool = False

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
        """Seconds of a predict with no rows, and of each row, by the ends of the latency profile."""
        if not self.latency:
            return float("inf"), 0.0
        least, most = min(self.latency), max(self.latency)
        each = (
            max(0.0, (self.latency[most] - self.latency[least]) / (most - least))
            if most > least
            else self.latency[least]
        )
        return max(0.0, self.latency[least] - least * each), each

    def seconds(self, rows: int) -> float:
        """About what one predict of *rows* rows takes; infinity where nothing could be measured."""
        base, each = self._line
        return base + rows * each

    @staticmethod
    def load(folder: Path, model: str = "", version: str = "") -> ServedModel:
        """Loads and warms the sealed bento or artifact folder at *folder*.

        *model* and *version* name a bare artifact folder; a sealed bento knows its own. Raises what ``ModelRunner.load``
        and ``warm`` raise: SignatureError, LoadError, InputError, PredictError.
        """
        runner = ModelRunner.load(folder)
        runner.warm()
        mlmodel = read_mlmodel(runner.folder)
        rows = runner.sample()
        tried = latency_profile.answered(runner, rows)  # words where the model refuses the synthetic row
        latency, rowwise, probabilities = _measured(runner, rows)
        return ServedModel(
            runner,
            runner.model or model or "model",
            runner.version or version or "0",
            str(mlmodel.get("mlflow_version", "")),
            not isinstance(tried, str) and tried.probabilities is not None,
            latency,
            rowwise,
            probabilities,
        )


def _measured(runner: ModelRunner, rows: InputRows) -> tuple[Mapping[int, float], bool, bool]:
    """The latency profile, and whether rows may be joined without and with probabilities: as sealed, else tried now."""
    profile = runner.profile
    if profile.latency:
        return profile.latency, profile.rowwise, profile.rowwise_probabilities
    try:
        measured = latency_profile.measure(runner, rows.slice(0, 1), _PROBED, seconds=0.0)
    except (InputError, PredictError, ValueError):
        return {}, False, False
    both = _rowwise(runner, probabilities=True)
    latency = {int(count): seconds for count, seconds in measured.items()}
    return latency, both or _rowwise(runner, probabilities=False), both


def _rowwise(runner: ModelRunner, *, probabilities: bool) -> bool:
    """Whether random rows answered together get, to the bit, what each gets alone: a matrix product of several rows adds
    up in another order. Only models over floating point are tried; others join rows where their bento says so."""
    plan = runner.plan
    if plan.uniform is None or plan.uniform.kind != "f":
        return False
    drawn = np.random.default_rng(0).standard_normal((max(_PROBED), len(plan.columns)))
    return latency_profile.rowwise(runner, plan.whole(drawn.astype(plan.uniform)), probabilities=probabilities)
