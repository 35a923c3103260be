"""A ledger in memory, for tests of what stands on the ledger; it passes the same contract tests as MLflow's."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from monitoring.interface import PermanentMonitoringError
from monitoring.ledger.ledger import Ledger
from monitoring.ledger.tracking import Run, UnknownRunError


class MemoryRuns:
    """Runs in a dictionary. ``away`` (an exception) is raised by every call while it is set."""

    def __init__(self) -> None:
        self.away: Exception | None = None
        self._runs: dict[str, Run] = {}
        self._experiments: dict[str, str] = {}
        self._files: dict[tuple[str, str], bytes] = {}
        self.numbers: dict[str, list[tuple[str, float, int]]] = {}
        self._ids = itertools.count(1)
        self._lock = threading.RLock()

    def create(self, experiment: str, name: str, tags: Mapping[str, str]) -> Run:
        self._reach()
        with self._lock:
            run_id = f"{next(self._ids):032x}"
            number = self._experiments.setdefault(experiment, str(len(self._experiments) + 1))
            now = time.time_ns() // 1_000_000
            run = Run(run_id, experiment, number, True, now, None, f"memory:/{name}", dict(tags))
            self._runs[run_id] = run
            return run

    def get(self, run_id: str) -> Run:
        self._reach()
        if run_id not in self._runs:
            raise UnknownRunError(f"no run {run_id} in memory")
        return self._runs[run_id]

    def search(self, experiments: str, *, running: bool | None, tags: Mapping[str, str], limit: int) -> list[Run]:
        self._reach()
        with self._lock:
            newest = list(reversed(self._runs.values()))
        found = [
            run
            for run in newest
            if (
                run.experiment.startswith(experiments[:-1])
                if experiments.endswith("*")
                else run.experiment == experiments
            )
            and (running is None or run.running == running)
            and all(run.tags.get(key) == value for key, value in tags.items())
        ]
        return found[:limit]

    def write(
        self,
        run_id: str,
        *,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        numbers: Mapping[str, float] | None = None,
        step: int = 0,
    ) -> None:
        with self._lock:
            run = self.get(run_id)
            for key, value in (params or {}).items():
                if run.params.get(key, value) != value:
                    raise PermanentMonitoringError(f"param {key} of run {run_id} is {run.params[key]}, not {value}")
            self._runs[run_id] = replace(
                run,
                tags={**run.tags, **(tags or {})},
                params={**run.params, **(params or {})},
                numbers={**run.numbers, **(numbers or {})},
            )
            self.numbers.setdefault(run_id, []).extend((key, value, step) for key, value in (numbers or {}).items())

    def end(self, run_id: str) -> None:
        with self._lock:
            self._runs[run_id] = replace(self.get(run_id), running=False, ended_ms=time.time_ns() // 1_000_000)

    def delete(self, run_id: str) -> None:
        with self._lock:
            self.get(run_id)
            del self._runs[run_id]

    def put(self, run: Run, path: str, content: bytes) -> None:
        self._reach()
        self._files[run.run_id, path] = content

    def read(self, run: Run, path: str) -> bytes | None:
        self._reach()
        return self._files.get((run.run_id, path))

    def _reach(self) -> None:
        if self.away is not None:
            raise self.away


class MemoryLedger(Ledger):
    """The ledger over MemoryRuns; give two of them the same *runs* to play two processes."""

    def __init__(
        self, scratch: Path, *, runs: MemoryRuns | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.memory = runs if runs is not None else MemoryRuns()
        super().__init__("memory:", scratch, runs=self.memory, clock=clock)
