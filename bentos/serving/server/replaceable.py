"""A server that its parent may replace: says when it is ready, and retires when another has taken its place.

The line to the parent is a socket. The server writes ``ready``, or
``failed <reason>`` before it ends; the parent writes ``taken``, ``kept``, ``refused <reason>``
and ``retire``, one a line; its end means that the parent is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING

import uvicorn

from bentos.serving.cells import OUTCOMES
from bentos.serving.server.drain import DrainingServer
from bentos.serving.server.http1 import RETIRED

if TYPE_CHECKING:
    from bentos.serving.server.dataplane import DataPlane

LINGER_SECONDS = 30.0  # an idle connection of a retired server is closed after this long
SETTLE_SECONDS = 0.5  # what was accepted just before has become a connection by then


class ReplaceableServer(DrainingServer):
    """A draining server with a line to its parent, the socket *parent*.

    Once retired it accepts nothing more, stays ready, and closes each connection after its next answer: no client finds
    a connection closed under its request. It ends with its last connection, at the latest after LINGER_SECONDS.
    """

    def __init__(self, config: uvicorn.Config, plane: DataPlane, drain_seconds: float, parent: socket.socket) -> None:
        super().__init__(config, plane, drain_seconds)
        self._parent = parent
        self._retire = threading.Event()
        self._retired_at: float | None = None
        self._stopping: asyncio.Task[None] | None = None  # gRPC takes no new calls either

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to accept, then tells the parent."""
        await super().startup(sockets)
        threading.Thread(target=self._listen, name="parent", daemon=True).start()
        self._parent.sendall(b"ready\n")

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to stop now."""
        stop = await super().on_tick(counter)
        if self._retired_at is None:
            if self._retire.is_set():
                self._retired_at = time.monotonic()
                for server in self.servers:
                    server.close()  # here alone: the socket itself is the parent's
                if self.grpc is not None:
                    self._stopping = asyncio.create_task(self.grpc.stop(LINGER_SECONDS))
                self.config.encoded_headers = [RETIRED]
                self.server_state.default_headers = self.config.encoded_headers
            return stop
        since = time.monotonic() - self._retired_at
        return stop or since > LINGER_SECONDS or (since > SETTLE_SECONDS and not self.server_state.connections)

    def _listen(self) -> None:
        """Does what the parent says, until its end."""
        with contextlib.suppress(OSError), self._parent.makefile("r", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                word, _, rest = line.rstrip("\n").partition(" ")
                if word == "retire":
                    self._retire.set()
                elif word in OUTCOMES:
                    self._plane.state.told(word, rest)
        self.handle_exit(signal.SIGTERM, None)
