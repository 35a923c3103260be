"""PlanStore: the plans behind the gateway's files, shared by many processes.

One JSON file a model under ``<folder>/plans``, changed only under ``<folder>/lock``; a change that takes seconds (warming
an arm) also holds the model's own lock, so that other models are not kept waiting. Locks are fcntl locks: a killed holder
lets go.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from infra.gateways.interface import PermanentGatewayError, TransientGatewayError
from infra.traffic import TrafficPlan, TrafficPlanError


@dataclass(frozen=True)
class Kept:
    """A plan whose clusters stay until ``until`` (unix seconds): being warmed, or with answers still on their way."""

    plan: TrafficPlan
    until: float


@dataclass(frozen=True)
class ModelPlans:
    """What is known of one model: the plan its routes follow, and plans whose clusters must exist besides."""

    live: TrafficPlan | None = None
    kept: tuple[Kept, ...] = ()

    def current(self, now: float) -> ModelPlans:
        """The record without what is kept no longer."""
        return ModelPlans(self.live, tuple(kept for kept in self.kept if kept.until > now))

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``from_json`` gives an equal record back."""
        return {
            "live": self.live.to_json() if self.live else None,
            "kept": [{"plan": kept.plan.to_json(), "until": kept.until} for kept in self.kept],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelPlans:
        """Reads what ``to_json`` wrote."""
        live = values["live"]
        return cls(
            TrafficPlan.from_json(live) if live else None,
            tuple(Kept(TrafficPlan.from_json(kept["plan"]), kept["until"]) for kept in values["kept"]),
        )


class PlanStore:
    """Reads and writes records. Callers hold ``lock()`` around every read that leads to a write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._plans = folder / "plans"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Nobody else changes a record or a file meanwhile. Held for milliseconds only."""
        with self._locked(self.folder / "lock", 10.0, "the gateway's files"):
            yield

    @contextmanager
    def model_lock(self, model: str, timeout: float) -> Iterator[None]:
        """Nobody else changes this model's traffic meanwhile; TransientGatewayError after *timeout* seconds."""
        with self._locked(self.folder / "locks" / quote(model, safe=""), timeout, f"the traffic of {model}"):
            yield

    @contextmanager
    def _locked(self, path: Path, timeout: float, what: str) -> Iterator[None]:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        deadline = time.monotonic() + timeout
        with path.open("a") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise TransientGatewayError(
                            f"{what}: another change is still under way after {timeout:g} s (lock {path}). Try again."
                        ) from None
                    time.sleep(0.01)
            yield

    def read(self, model: str) -> ModelPlans:
        """The record of *model*, empty when there is none."""
        path = self._path(model)
        try:
            return ModelPlans.from_json(json.loads(path.read_text()))
        except FileNotFoundError:
            return ModelPlans()
        except (ValueError, KeyError, TypeError, TrafficPlanError) as error:
            raise PermanentGatewayError(
                f"plan file {path} cannot be read: {error!r}. Remove the file; reconcile restores the model's routes."
            ) from error

    def all(self) -> dict[str, ModelPlans]:
        """Every record by model."""
        records: dict[str, ModelPlans] = {}
        for path in sorted(self._plans.glob("*.json")):
            values = json.loads(path.read_text())
            records[values["model"]] = self.read(values["model"])
        return records

    def write(self, model: str, record: ModelPlans) -> None:
        """Replaces the record; an empty one leaves no file."""
        if record == ModelPlans():
            self._path(model).unlink(missing_ok=True)
        else:
            replace_file(self._path(model), {"model": model, **record.to_json()})

    def next_revision(self) -> int:
        """A number larger than any given before."""
        path = self.folder / "revision.json"
        revision = (json.loads(path.read_text()) if path.exists() else 0) + 1
        replace_file(
            path, revision, scratch=self.folder
        )  # the folder may be a volume of its own, and nobody watches it
        return int(revision)

    def _path(self, model: str) -> Path:
        return self._plans / f"{quote(model, safe='')}.json"


def replace_file(path: Path, values: Any, *, scratch: Path | None = None) -> None:
    """Writes *values* as JSON by one atomic rename; a reader sees the old file or the new one.

    It is written in the folder *scratch* first; None: the one above the file's own, which Envoy may watch.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    written = (scratch or path.parent.parent) / f".{path.parent.name}-{path.name}.{os.getpid()}"
    written.write_text(json.dumps(values))
    written.replace(path)
