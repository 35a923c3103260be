"""The server of one worker: its connections come from the parent (bentos/serving/server/workers.py), one by one."""

from __future__ import annotations

import asyncio
import functools
import socket
from typing import TYPE_CHECKING, Any

import uvicorn

from bentos.serving.server.replaceable import ReplaceableServer

if TYPE_CHECKING:
    from bentos.serving.server.dataplane import DataPlane

AT_ONCE = 64  # connections taken before something else has its turn


class WorkerServer(ReplaceableServer):
    """A replaceable server that listens nowhere: *given* brings accepted connections."""

    def __init__(
        self,
        config: uvicorn.Config,
        plane: DataPlane,
        drain_seconds: float,
        parent: socket.socket,
        given: socket.socket,
    ) -> None:
        super().__init__(config, plane, drain_seconds, parent)
        self._given = given
        self._given.setblocking(False)
        self._taken = 0
        self._tasks: set[asyncio.Task[object]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to take connections, then tells the parent."""
        asyncio.get_running_loop().add_reader(self._given, self._take)
        await super().startup([])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes what has been dealt, then nothing more: the parent deals to the others."""
        while self._take():
            pass
        asyncio.get_running_loop().remove_reader(self._given)
        self._given.close()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to stop now."""
        self._tell()
        return await super().on_tick(counter)

    def _take(self) -> bool:
        """Takes connections that wait; whether there may be more."""
        loop = asyncio.get_running_loop()
        for _ in range(AT_ONCE):
            try:
                word, descriptors, _, _ = socket.recv_fds(self._given, 1, 1)
            except BlockingIOError:
                break
            if not word:
                loop.remove_reader(self._given)
                break
            self._taken += len(descriptors)
            for descriptor in descriptors:
                task = loop.create_task(self._adopt(socket.socket(fileno=descriptor)))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        else:
            return True
        self._tell()
        return False

    async def _adopt(self, connection: socket.socket) -> None:
        """Makes the protocol of a connection as uvicorn does for those that it accepts."""
        protocol: Any = self.config.http_protocol_class
        factory = functools.partial(
            protocol,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        try:
            await asyncio.get_running_loop().connect_accepted_socket(factory, connection)
        except OSError:  # the client has gone already
            connection.close()

    def _tell(self) -> None:
        """How many connections have come to their end, for the parent to know who has fewest."""
        open_now = len(self.server_state.connections) + len(self._tasks)
        self._plane.state.metrics.connections_closed(self._taken - open_now)
