"""Ratios of measured rates: pure, from the results of .shipway/bench/serving.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.peers_started import PEERS, TUNED

Results = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Ratio:
    """A server's median rate over another's, and the range that the rounds allow: its slowest round over the other's
    fastest, and the other way round."""

    to: str
    low: float
    median: float
    high: float

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.low)} to {_short(self.high)})"


def _short(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio >= 1 else f"{ratio:.2f}"


def found(results: Results, model: str, server: str, rows: int) -> Mapping[str, Any] | None:
    """One result, None where it was not measured."""
    wanted = (model, server, rows)
    return next((one for one in results if (one["model"], one["server"], one["rows"]) == wanted), None)


def ratio(results: Results, model: str, rows: int, server: str, other: str) -> Ratio | None:
    """*server* over *other*; None where either was not measured."""
    mine, theirs = found(results, model, server, rows), found(results, model, other, rows)
    if mine is None or theirs is None:
        return None
    one, two = mine["requests_per_second"], theirs["requests_per_second"]
    return Ratio(other, one["min"] / two["max"], one["median"] / two["median"], one["max"] / two["min"])


def best_peer(results: Results, model: str, rows: int, *, tuned: bool) -> str | None:
    """The peer with the highest median rate; *tuned* ones, set for this very load, count only if asked for."""
    names = (*PEERS, *TUNED) if tuned else PEERS
    measured = [one for name in names if (one := found(results, model, name, rows)) is not None]
    if not measured:
        return None
    return str(max(measured, key=lambda one: one["requests_per_second"]["median"])["server"])


def models_of(results: Results) -> list[str]:
    """The models, in the order in which they were measured."""
    return list(dict.fromkeys(str(one["model"]) for one in results))


def over_peers(results: Results, rows: int = 1, server: str = "shipway") -> dict[str, dict[str, Ratio]]:
    """Model → "peer" (the best as shipped), "tuned" (the best of all), "mlflow", "bare", "bare-shipway" → ratio of *server*; what was not
    measured is left out."""
    everything: dict[str, dict[str, Ratio]] = {}
    for model in models_of(results):
        others = {
            "peer": best_peer(results, model, rows, tuned=False),
            "tuned": best_peer(results, model, rows, tuned=True),
            "mlflow": "mlflow",
            "bare": "bare",
            "bare-shipway": "bare-shipway",
        }
        ratios = {
            name: one
            for name, other in others.items()
            if other is not None and (one := ratio(results, model, rows, server, other)) is not None
        }
        if ratios:
            everything[model] = ratios
    return everything
