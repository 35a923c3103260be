"""Profile: what a sealed bento's ``src/runtime/runtime.json`` says of the runtime that answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from bentos.serving.model.interface import LoadError

FILE = "runtime.json"
CONVERTED = ("onnx", "gtil")
"""Runtimes that answer from a converted model, without the library that trained it."""


@dataclass(frozen=True)
class Refused:
    """What the model's own code raises for a value: the class of the error and its words."""

    error: str
    words: str


@dataclass(frozen=True)
class Converted:
    """How a converted model is fed, and what its scores mean.

    ``file`` holds it. ``feed`` is the dtype of its input [rows x columns]; ``through`` the dtype that columns of several
    types meet in before (None: each is cast by itself), as pandas and the model's library cast them; ``widen`` the dtype
    after that. ``index`` and ``scores`` name the outputs of an ONNX graph: a class's position [rows], and
    [rows x classes or outputs]; None where it has none.

    ``after`` is done to GTIL's sums: ``softmax``, which treelite itself reckons in floats; else treelite's own link.

    ``rule`` makes the answer: ``index`` takes the label at the index, ``argmax`` that of the largest score, ``above`` and
    ``from`` the second one where the only score is > 0.5 and >= 0.5; ``flat`` the only score, ``rows`` the scores, ``pair``
    1 - score and score. ``dtype`` is that of scores in an answer, ``labels`` are the classes as ``label_dtype``.
    ``probabilities`` is the rule of the probabilities (``rows`` or ``pair``), None without any.

    ``nan`` and ``inf`` are the refusals of what is missing and what is infinite, None where it is answered. ``limits`` are
    the largest magnitudes of each column that are no infinity to the model.
    """

    file: str
    feed: str
    rule: str
    dtype: str
    through: str | None = None
    widen: str | None = None
    index: str | None = None
    scores: str | None = None
    after: str | None = None
    labels: tuple[Any, ...] = ()
    label_dtype: str = ""
    probabilities: str | None = None
    nan: Refused | None = None
    inf: Refused | None = None
    limits: tuple[float, ...] = ()

    @staticmethod
    def parse(raw: Mapping[str, Any]) -> Converted:
        """From JSON's values. Raises TypeError for keys that are missing or unknown."""
        refused = {key: Refused(**raw[key]) if raw.get(key) else None for key in ("nan", "inf")}
        return Converted(**{**raw, **refused, "labels": tuple(raw["labels"]), "limits": tuple(raw["limits"])})

    def to_json(self) -> dict[str, Any]:
        """As JSON's values."""
        return asdict(self)


@dataclass(frozen=True)
class Profile:
    """The runtime that answers, why it does, and what it was measured to be.

    ``latency`` is rows → seconds of one predict, None where it was not measured. ``rowwise``: rows answered joined are to
    the bit what they are alone; ``rowwise_probabilities``: with their probabilities. ``array``: the native model is given an
    array in place of a frame, with the same answers. ``bulk``: the model itself answers many rows sooner than the converted
    one, and to the bit the same; see ``ModelRunner.load``.
    """

    runtime: str = "native"
    reason: str = ""
    latency: Mapping[int, float] | None = None
    rowwise: bool = False
    rowwise_probabilities: bool = False
    array: bool = False
    bulk: bool = False
    converted: Converted | None = field(default=None, compare=False)

    @staticmethod
    def read(folder: Path) -> Profile:
        """The profile in ``folder``; what is known without one where there is no such folder.

        Raises LoadError where the file is damaged.
        """
        path = folder / FILE
        if not path.exists():
            return Profile()
        try:
            raw = orjson.loads(path.read_bytes())
            latency = raw.get("latency")
            return Profile(
                runtime=raw["runtime"],
                reason=raw["reason"],
                latency={int(rows): float(seconds) for rows, seconds in latency.items()} if latency else None,
                rowwise=bool(raw.get("rowwise")),
                rowwise_probabilities=bool(raw.get("rowwise_probabilities")),
                array=bool(raw.get("array")),
                bulk=bool(raw.get("bulk")),
                converted=Converted.parse(raw["converted"]) if raw["runtime"] in CONVERTED else None,
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise LoadError(f"{path} cannot be read: {error!r}. Build the bento again") from error
