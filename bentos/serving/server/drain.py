"""A uvicorn server that says goodbye before it goes."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from types import FrameType

import uvicorn

from bentos.serving.server.dataplane import DataPlane
from bentos.serving.server.grpc_server import GrpcServer
from bentos.serving.server.watchdog import Watchdog

GRACE_SECONDS = 30.0  # for gRPC calls in flight, as long as a predict may take by default


class DrainingServer(uvicorn.Server):
    """On SIGTERM it is not ready for *drain_seconds* and closes each connection after its answer; then it stops.

    Requests in flight finish in any case. A second signal ends the drain at once.
    """

    def __init__(self, config: uvicorn.Config, plane: DataPlane, drain_seconds: float) -> None:
        super().__init__(config)
        self.grpc: GrpcServer | None = None  # what starts and ends with this server
        self.watchdog: Watchdog | None = None
        self._starting: asyncio.Task[None] | None = None
        self._plane = plane
        self._drain_seconds = drain_seconds
        self._stop_at: float | None = None
        self.failed = False  # it ended because it could not listen as asked

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Answers HTTP, then gRPC too: its imports must not make anyone wait."""
        await super().startup(sockets)
        if self.grpc is not None:
            self._starting = asyncio.create_task(self._start(self.grpc))

    async def _start(self, grpc: GrpcServer) -> None:
        try:
            if await grpc.start():
                print(f"shipway launcher: gRPC on {grpc.where}", flush=True)
        except Exception as error:  # it was asked for: a server without it is not the one that was asked for
            print(f"shipway launcher: {error}", file=sys.stderr, flush=True)
            self.failed = True
            self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Calls in flight finish in both protocols; who takes too long is cut off as ever."""
        if self.watchdog is not None:
            self.watchdog.stop()
        sweeping = asyncio.create_task(self._sweep_on())
        try:
            if self.grpc is not None:
                if self._starting is not None:
                    await self._starting
                await self.grpc.stop(self._drain_seconds + max(GRACE_SECONDS, self._plane.deadline))
            await super().shutdown(sockets)
        finally:
            sweeping.cancel()

    async def _sweep_on(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            self._sweep()

    def _sweep(self) -> None:
        now = time.monotonic()
        for connection in list(self.server_state.connections):
            connection.sweep(now)  # type: ignore[union-attr] # ours, see bentos.serving.server.http1

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came. Not passed on afterwards: a drained server ends with exit code 0."""
        self._plane.drain()
        self._stop_at = time.monotonic() + self._drain_seconds if self._stop_at is None else 0.0

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to stop now."""
        stop = await super().on_tick(counter)
        if self.watchdog is not None:
            self.watchdog.look()
        if counter % 10 == 0:
            self._sweep()
        return stop or (self._stop_at is not None and time.monotonic() >= self._stop_at)
