"""A uvicorn server that says goodbye before it goes."""

from __future__ import annotations

import time
from types import FrameType

import uvicorn

from bentos.dataplane import DataPlane


class DrainingServer(uvicorn.Server):
    """On SIGTERM it is not ready for *drain_seconds* and closes each connection after its answer; then it stops.

    Requests in flight finish in any case. A second signal ends the drain at once.
    """

    def __init__(self, config: uvicorn.Config, plane: DataPlane, drain_seconds: float) -> None:
        super().__init__(config)
        self._plane = plane
        self._drain_seconds = drain_seconds
        self._stop_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came. Not passed on afterwards: a drained server ends with exit code 0."""
        self._plane.drain()
        self._stop_at = time.monotonic() + self._drain_seconds if self._stop_at is None else 0.0

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to stop now."""
        stop = await super().on_tick(counter)
        return stop or (self._stop_at is not None and time.monotonic() >= self._stop_at)
