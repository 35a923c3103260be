"""FlowRuns: the seam between the receiver and whatever carries releases out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bentos.serving.errors import PermanentError, TransientError


class RunsUnavailable(TransientError):  # noqa: N818 (the state of the seam, not a mistake)
    """Runs cannot be started now: the orchestrator or the ledger is away. The same call may succeed later."""


class RunRefusedError(PermanentError):
    """The orchestrator is there and will not start this run; the message carries its words."""


@dataclass(frozen=True)
class StartedRun:
    """A durable run. ``created`` is False where the key had started it before."""

    id: str
    created: bool


class FlowRuns(Protocol):
    """Starts one release of a model version per attempt."""

    async def start(self, model: str, version: str, asked_at: float) -> StartedRun:
        """The run that promotes *version* of *model*, started unless its key already did. Somebody asked for it at
        *asked_at* (unix seconds): a release that began later has answered that, even where it has ended since.

        Raises RunsUnavailable or RunRefusedError.
        """
        ...
