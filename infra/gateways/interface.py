"""Who gets the traffic: the seam in front of Envoy and the Gateway API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from bentos.serving.errors import PermanentError, TransientError
from infra.traffic import TrafficPlan


class TransientGatewayError(TransientError):
    """The gateway is away, or an arm is not ready and warm yet."""


class PermanentGatewayError(PermanentError):
    """The gateway refused the plan."""


@dataclass(frozen=True)
class ArmStats:
    """What the gateway itself counted for one deployment since the gateway started. Counters only grow."""

    requests: int  # upstream requests completed or reset, live and mirrored
    failures_5xx: int
    timeouts: int
    resets: int
    connect_failures: int
    no_healthy: int  # requests that found no healthy host
    healthy: bool


class Gateway(Protocol):
    """Applies traffic plans and says what it applied."""

    def apply(self, plan: TrafficPlan, timeout: float = 10.0) -> None:
        """Makes *plan* live; returns once the gateway answers by it.

        An arm that gains weight or a mirror must first be ready and warm: TransientGatewayError if it is not within
        *timeout* seconds, and the routes are as they were. But a candidate that the plan takes all traffic from loses it
        first, as by ``withdraw``, and whatever fails gives none back; and a plan of one arm that is warm stays, for a gateway
        that answers by it later.
        """
        ...

    def withdraw(self, model: str) -> None:
        """Returns the model to its baseline where a candidate has traffic, also while the gateway is away."""
        ...

    def plan(self, model: str) -> TrafficPlan | None:
        """What the gateway routes for *model* now, read back from the gateway."""
        ...

    def plans(self) -> Mapping[str, TrafficPlan]:
        """Every model's plan, read back."""
        ...

    def renew(self, model: str, expires_at: float) -> None:
        """Moves the lease's end to *expires_at* (unix seconds) without touching a route."""
        ...

    def lapse(self, now: float) -> list[str]:
        """Returns every model whose lease ended before *now* to its baseline; names them."""
        ...

    def remove(self, model: str) -> None:
        """Takes the model's routes away; unknown models are no error."""
        ...

    def stats(self, model: str) -> Mapping[str, ArmStats]:
        """Counters per deployment name."""
        ...
