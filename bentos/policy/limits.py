"""Limits: how hard one model may be pressed."""

from __future__ import annotations

from pydantic import Field

from bentos.policy.values import Frozen, Seconds


class Limits(Frozen):
    """How hard one model may be pressed, and how long a candidate may take before the baseline answers instead."""

    timeout_seconds: Seconds = Field(10.0, description="A request that no arm answered in this time ends with 504.")
    candidate_timeout_seconds: Seconds = Field(
        0.5, description="After this long without the candidate's answer the baseline is asked too."
    )
    max_connections: int = Field(1024, ge=1, description="Connections that the gateway keeps to one version at most.")
    max_pending: int = Field(1024, ge=1, description="Requests that wait for a connection at most; more get 503.")
    requests_per_second: int | None = Field(None, ge=1, description="Local rate limit for the model; None: no limit.")
