"""A server under measurement, whoever made it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.models import BenchModel
from benchmarks.processes import Processes
from benchmarks.protocols import Protocol


class WrongAnswerError(Exception):
    """A server that does not answer what the estimator answers."""


@dataclass(frozen=True)
class Server:
    """Listens on *port* of this machine. *pids* are the processes whose time and memory it costs."""

    name: str
    port: int
    path: str
    protocol: Protocol
    pids: tuple[int, ...]
    constant: bool = False  # its answer is none of the model's
    rows: tuple[int, ...] = (1, 100)  # sizes of request that it is measured with
    workers: int = 1

    @property
    def pinned(self) -> bool:
        """Whether it gets one core, and the generator the others; what is several processes gets all."""
        return len(self.pids) == 1 and self.workers == 1

    def wait(self, model: BenchModel, processes: Processes) -> None:
        """Waits until it answers, and compares its answers with the estimator's.

        Raises ServerEndedError and WrongAnswerError.
        """
        import httpx

        url = f"http://127.0.0.1:{self.port}{self.path}"
        with httpx.Client(trust_env=False, timeout=30) as client:

            def post(rows: int) -> httpx.Response:
                content = self.protocol.request(model, rows)
                return client.post(url, content=content, headers={"content-type": "application/json"})

            def answers() -> bool:
                try:
                    return post(1).status_code not in (404, 502, 503)
                except httpx.TransportError:
                    return False

            processes.wait(self.pids[0], answers)
            for rows in self.rows:
                answer = post(rows)
                if answer.status_code != 200:
                    raise WrongAnswerError(f"{self.name} answered {answer.status_code}: {answer.text[:500]}")
                self._compare(answer.json(), model, rows)

    def _compare(self, answer: Any, model: BenchModel, rows: int) -> None:
        if self.constant:
            return
        found, expected = self.protocol.classes(answer), model.answers[:rows]
        if found != expected:
            raise WrongAnswerError(f"{self.name}, {model.key}, {rows} rows: found {found}, expected {expected}")


Starter = Callable[[BenchModel, Processes], list[Server]]
"""Starts the servers of one kind for a model; they may not be ready yet."""
