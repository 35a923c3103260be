"""How each server is asked and how it answers: the same rows, in the JSON that each speaks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.models import COLUMNS, NAMES, BenchModel


@dataclass(frozen=True)
class Protocol:
    """*body* makes the JSON of a request from a model's first n rows; *classes* reads the answer's."""

    body: Callable[[BenchModel, int], Any]
    classes: Callable[[Any], list[int]]

    def request(self, model: BenchModel, rows: int) -> bytes:
        """The bytes of a request with *rows* rows, without white space."""
        return json.dumps(self.body(model, rows), separators=(",", ":")).encode()


def _split(model: BenchModel, rows: int) -> Any:
    data = model.rows[:rows].tolist()
    return {"inputs": data} if model.is_tensor else {"dataframe_split": {"columns": NAMES, "data": data}}


def _scored(answer: Any) -> list[int]:
    found = answer["predictions"]
    return [int(value) for value in (found["label"] if isinstance(found, dict) else found)]


def _v2(model: BenchModel, rows: int) -> Any:
    datatype = "FP32" if model.is_tensor else "FP64"
    data = model.rows[:rows].ravel().tolist()
    return {"inputs": [{"name": "x", "shape": [rows, COLUMNS], "datatype": datatype, "data": data}]}


def _v2_classes(answer: Any) -> list[int]:
    # mlserver-lightgbm answers the booster's probability
    return [int(value > 0.5) for value in answer["outputs"][0]["data"]]


SCORING = Protocol(_split, _scored)
"""MLflow's: Shipway and `mlflow models serve`."""

V1 = Protocol(lambda model, rows: {"instances": model.rows[:rows].tolist()}, _scored)
"""KServe's first protocol; LitServe's program takes the same."""

V2 = Protocol(_v2, _v2_classes)
"""The Open Inference Protocol."""

TYPED = Protocol(lambda model, rows: {"rows": model.rows[:rows].tolist()}, lambda answer: [int(v) for v in answer])
"""BentoML's typed API: the arguments by name, the value itself."""
