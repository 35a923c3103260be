"""Starts deployments over Prefect's REST API and waits for their runs, as ``prefect deployment run --watch`` does."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from bentos.serving.errors import PermanentError, TransientError

POLL_SECONDS = 0.2
AWAY_SECONDS = 30.0  # how long Prefect may be too busy to answer


class FlowRunError(PermanentError):
    """A flow run that was refused or did not complete; the message has Prefect's words."""


class PrefectAwayError(TransientError):
    """Prefect cannot be reached."""


@dataclass(frozen=True)
class Ended:
    """How a flow run ended: COMPLETED, FAILED, CRASHED or CANCELLED, with Prefect's message."""

    state: str
    message: str


class FlowRuns:
    """Flow runs of the Prefect server at *api*, which may be away or too busy to answer for *patience* seconds."""

    def __init__(self, api: str, *, patience: float = AWAY_SECONDS) -> None:
        self._patience = patience
        self._client = httpx.Client(base_url=api.rstrip("/"), timeout=10.0, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def start(self, deployment: str, parameters: Mapping[str, Any]) -> str:
        """Starts ``flow-name/deployment-name``; the id of the run. Raises FlowRunError where Prefect refuses it."""
        found = self._ask("GET", f"/deployments/name/{deployment}")
        made = self._ask(
            "POST",
            f"/deployments/{found['id']}/create_flow_run",
            {"parameters": dict(parameters), "idempotency_key": str(uuid.uuid4())},
        )
        return str(made["id"])

    def ended(self, run_id: str) -> Ended | None:
        """How the run ended, or None while it has not."""
        state = self._ask("GET", f"/flow_runs/{run_id}")["state"] or {}
        if state.get("type") not in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            return None
        return Ended(state["type"], str(state.get("message") or ""))

    def wait(self, run_id: str, what: str, *, timeout: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Until the run has completed; *meanwhile* is called at every look.

        Raises FlowRunError where it ends otherwise or not within *timeout* seconds.
        """
        deadline = time.monotonic() + timeout
        while (ended := self.ended(run_id)) is None:
            if time.monotonic() > deadline:
                raise FlowRunError(
                    f"{what}: flow run {run_id} has not ended within {timeout:g} s; see its logs in Prefect."
                )
            meanwhile()
            time.sleep(POLL_SECONDS)
        if ended.state != "COMPLETED":
            raise FlowRunError(f"{what}: flow run {run_id} ended {ended.state}: {ended.message}")

    def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """One call; tried again while Prefect is away or too busy, for so long as it was told to be patient."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                answer = self._client.request(method, path, json=body)
                busy = f"answered {answer.status_code}" if answer.status_code in (429, 502, 503, 504) else ""
            except httpx.TransportError as error:
                busy = repr(error)
            if not busy:
                break
            if time.monotonic() > deadline:
                raise PrefectAwayError(
                    f"Prefect at {self._client.base_url}: {busy} for {self._patience:g} s. Is it up?"
                )
            time.sleep(POLL_SECONDS)
        if answer.status_code >= 400:
            raise FlowRunError(f"{method} {path}: Prefect answered {answer.status_code}: {answer.text[:500]}")
        found: dict[str, Any] = answer.json()
        return found
