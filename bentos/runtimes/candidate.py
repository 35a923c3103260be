"""A candidate: a converted model that may answer in the native one's place, if it is found equal."""

from __future__ import annotations

from dataclasses import dataclass

from bentos.serving.errors import PermanentError
from bentos.serving.model.loaders.converted import ConvertedPredictor, gtil_run, onnx_run
from bentos.serving.model.profile import Converted

EXACT = 1e-9  # of models whose numbers are doubles
SINGLE = 1e-6  # of models whose own numbers are floats
"""The largest difference of scores that counts as equal, times the score where that is above 1."""


class NotConvertedError(PermanentError):
    """A model that a converter, or this code, does not cover; the message says why."""


@dataclass(frozen=True)
class Candidate:
    """``model`` is the content of the file that ``converted`` describes; scores must be within ``tolerance``."""

    runtime: str
    model: bytes
    converted: Converted
    tolerance: float

    def predictor(self) -> ConvertedPredictor:
        """It, loaded as a server loads it."""
        run = onnx_run(self.model, self.converted) if self.runtime == "onnx" else gtil_run(self.model, self.converted)
        return ConvertedPredictor(self.converted, run)
