"""How a version's server answers, and how hard its model may be pressed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bentos.policy.values import Frozen, Seconds, Share


class ServingPolicy(Frozen):
    """How a version's server answers. It changes the deployment, never the bento."""

    workers: int = Field(1, ge=1, le=256, description="Processes that answer on the same socket.")
    batching: Literal["auto", "inline", "batched", "off"] = Field(
        "auto",
        description="Which requests share a predict. auto: as the model's measured latency profile says; inline: each by itself, at once; batched: whatever waited meanwhile is the next predict; off: one by one.",
    )
    queue: int = Field(512, ge=1, description="Requests that may wait in one worker; more are answered 429.")
    deadline_seconds: Seconds = Field(
        30.0, description="A request that is not answered in this time gets 504; a client may ask for less."
    )
    largest_body_mb: float = Field(64.0, gt=0, description="Longest body of a request in MiB; longer ones get 413.")
    log_sample: Share = Field(
        1.0, description="Share of requests in the prediction log, chosen by request id; evidence rests on these alone."
    )

    @property
    def largest_body(self) -> int:
        """The longest body in bytes."""
        return round(self.largest_body_mb * 2**20)

    def arguments(self) -> tuple[str, ...]:
        """The launcher's options that differ from its own defaults."""
        given = self.model_dump(exclude_defaults=True).items()
        options = (("sample" if name == "log_sample" else name.replace("_", "-"), value) for name, value in given)
        return tuple(text for name, value in options for text in (f"--{name}", str(value)))


class Limits(Frozen):
    """How hard one model may be pressed, and how long a candidate may take before the baseline answers instead."""

    timeout_seconds: Seconds = Field(10.0, description="A request that no arm answered in this time ends with 504.")
    candidate_timeout_seconds: Seconds | None = Field(
        None,
        description="After this long without the candidate's answer the baseline is asked too. None: 3 times what metrics.latency allows beside the baseline's p99 of the shadow, at least 0.5.",
    )
    max_connections: int = Field(1024, ge=1, description="Connections that the gateway keeps to one version at most.")
    max_pending: int = Field(1024, ge=1, description="Requests that wait for a connection at most; more get 503.")
    requests_per_second: int | None = Field(None, ge=1, description="Local rate limit for the model; None: no limit.")
