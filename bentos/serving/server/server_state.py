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

    def refuse(self, reason: str) -> None:
        """The alias names another version, which is not taken for *reason*."""
        self.refused = reason
        self.metrics.followed("refused", reason)

    def keep(self) -> None:
        """The alias names this version again: the refusal is forgotten."""
        self.refused = ""
        self.metrics.followed("kept")

    def take(self) -> None:
        """This server has taken the place of another version's."""
        self.metrics.followed("taken")
