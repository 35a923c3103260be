"""ServerState: what a server says of itself: which version answers, whether it is ready, and what it has counted."""

from __future__ import annotations

from dataclasses import dataclass

from bentos.serving.server.metrics import ServerMetrics
from bentos.serving.server.served_model import ServedModel


@dataclass
class ServerState:
    """The version that answers as long as this server lives, and how it stands.

    ``draining``: not ready any more, and every connection closes after its answer. ``refused``: why the version that the
    followed alias names is not the one that answers; "" where it is.
    """

    live: ServedModel
    metrics: ServerMetrics
    deployment: str = ""
    draining: bool = False
    refused: str = ""

    def told(self, outcome: str, refused: str) -> None:
        """What the parent says of the followed alias: "refused", another version is not taken for the reason *refused*; "kept",
        it names this one again; "taken", this server has another version's place."""
        self.refused = refused
        self.metrics.followed(outcome, refused)
