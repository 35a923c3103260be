"""Answers a release that waits for a person; Prefect has a form in its UI and a REST call for it, but no command."""

from __future__ import annotations

import os
import time
from urllib.parse import urlsplit

import httpx

from bentos.serving.errors import PermanentError, TransientError

BUSY_TRIES = 20
DECISIONS = ("promote", "rollback")


class ResumeError(PermanentError):
    """The flow run does not wait for an answer, or there is none."""


class PrefectAwayError(TransientError):
    """Prefect does not answer."""


def answer(prefect_api: str, flow_run: str, decision: str, reason: str) -> str:
    """Gives *decision* to the waiting flow run, by its id or its name; returns its id.

    Raises ResumeError for a decision that is none or where no such run waits, PrefectAwayError while Prefect is away.
    """
    if decision not in DECISIONS:
        raise ResumeError(f"decision {decision!r}: expected {' or '.join(DECISIONS)}.")
    trust = urlsplit(prefect_api).hostname not in ("127.0.0.1", "localhost", "::1")
    with httpx.Client(base_url=prefect_api, timeout=10, trust_env=trust) as http:
        try:
            identifier = _waiting(http, flow_run)
            body = {"run_input": {"decision": decision, "reason": reason or f"shipway resume by {_who()}"}}
            response = http.post(f"/flow_runs/{identifier}/resume", json=body)
            for _ in range(BUSY_TRIES):  # Prefect on SQLite answers 503 while its database is locked
                if response.status_code != 503:
                    break
                time.sleep(1.0)
                response = http.post(f"/flow_runs/{identifier}/resume", json=body)
        except httpx.TransportError as error:
            raise PrefectAwayError(f"Prefect at {prefect_api}: no answer ({error!r}). See 'shipway status'.") from error
    said = response.json() if response.is_success else {}
    if said.get("status") != "ACCEPT":
        why = (said.get("details") or {}).get("reason") or response.text[:300]
        raise ResumeError(f"flow run {flow_run}: Prefect refused the answer: {why}")
    return identifier


def _waiting(http: httpx.Client, flow_run: str) -> str:
    """The id of the paused run that *flow_run* names."""
    paused = http.post("/flow_runs/filter", json={"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}})
    paused.raise_for_status()
    runs = {run["id"]: run["name"] for run in paused.json()}
    found = [identifier for identifier, name in runs.items() if flow_run in (identifier, name)]
    if not found:
        waiting = ", ".join(f"{name} ({identifier})" for identifier, name in runs.items()) or "none"
        raise ResumeError(f"flow run {flow_run}: it does not wait for an answer. Waiting: {waiting}.")
    return str(found[0])


def _who() -> str:
    return os.environ.get("USER") or os.environ.get("LOGNAME") or "somebody"
