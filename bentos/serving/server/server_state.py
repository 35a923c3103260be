"""ServerState: what a server says of itself: which version answers, whether it is ready, and what it has counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bentos.serving.server.metrics import ServerMetrics
from bentos.serving.server.served_model import ServedModel


def _never() -> float:
    return 0.0


@dataclass
class ServerState:
    """The version that answers as long as this server lives, and how it stands.

    ``draining``: not ready any more, and every connection closes after its answer. ``refused``: why the version that the
    followed alias names is not the one that answers; "" where it is. ``predicting`` says for how many seconds the predict
    in flight has run: one that outlasts ``deadline`` makes the server unready, for nobody behind it is answered; one
    that outlasts it twice has hung, and the server is ``dead``: see bentos/serving/server/drain.py.
    """

    live: ServedModel
    metrics: ServerMetrics
    deployment: str = ""
    draining: bool = False
    refused: str = ""
    deadline: float = 30.0
    predicting: Callable[[], float] = _never

    @property
    def unready(self) -> str:
        """Why no new request should come here; "" where it may."""
        if self.draining:
            return "draining"
        seconds = self.predicting()
        return f"a predict has run for {seconds:.0f} s" if seconds > self.deadline else ""

    @property
    def hung_after(self) -> float:
        """Seconds after which a predict counts as hung."""
        return 2 * self.deadline

    @property
    def dead(self) -> str:
        """Why this server has to be replaced; "" where it has not."""
        seconds = self.predicting()
        return f"a predict has hung for {seconds:.0f} s" if seconds > self.hung_after else ""

    def told(self, outcome: str, refused: str) -> None:
        """What the parent says of the followed alias: "refused", another version is not taken for the reason *refused*; "kept",
        it names this one again; "taken", this server has another version's place."""
        self.refused = refused
        self.metrics.followed(outcome, refused)
