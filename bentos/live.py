"""Live: one loaded, warm model version with everything its server needs to answer for it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bentos.loaders.interface import PredictError
from bentos.runner import ModelRunner
from bentos.signature import InputError, Inputs, read_mlmodel


@dataclass(frozen=True)
class Live:
    """A version that answers. A request keeps the Live it began with, whatever is swapped in meanwhile."""

    runner: ModelRunner
    model: str
    version: str
    mlflow_version: str  # the one the model was logged with
    probabilities: bool  # whether the model gives class probabilities
    seconds: float  # what one row took once warm

    @cached_property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Who answered, as response headers."""
        return [
            (b"x-shipway-model", quote(self.model, safe=" !#$&'()*+,/:;=?@[]").encode()),
            (b"x-shipway-version", quote(self.version, safe=" ").encode()),
        ]

    @staticmethod
    def load(folder: Path, model: str = "", version: str = "") -> Live:
        """Loads and warms the sealed bento or artifact folder at *folder*.

        *model* and *version* name a bare artifact folder; a sealed bento knows its own. Raises what ``ModelRunner.load``
        and ``warm`` raise: SignatureError, LoadError, InputError, PredictError.
        """
        runner = ModelRunner.load(folder)
        runner.warm()
        mlmodel = read_mlmodel(runner.folder)
        example = runner.example()
        inputs = runner.plan.synthetic() if example is None else example
        return Live(
            runner,
            runner.model or model or "model",
            runner.version or version or "0",
            str(mlmodel.get("mlflow_version", "")),
            _has_probabilities(runner, inputs),
            _seconds(runner, inputs),
        )


def _has_probabilities(runner: ModelRunner, inputs: Inputs) -> bool:
    try:
        return runner.predict(inputs, probabilities=True).probabilities is not None
    except (InputError, PredictError):  # a model may refuse the synthetic row
        return False


def _seconds(runner: ModelRunner, inputs: Any) -> float:
    """The best of three: how long one predict takes; infinity where the model refuses the synthetic row."""
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        try:
            runner.predict(inputs)
        except (InputError, PredictError):
            return float("inf")
        best = min(best, time.perf_counter() - started)
    return best
