"""The data plane as an ASGI application, for servers that are not ours; `bentoml serve` is one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from bentos.serving.server.answer import Answer, Request
from bentos.serving.server.dataplane import DataPlane, prediction_kind
from bentos.serving.server.exchange import head_of, is_length, request_of

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class ClientLeftError(Exception):
    """The client went away before its request was whole."""


class Asgi:
    """Answers by *plane*."""

    def __init__(self, plane: DataPlane) -> None:
        self.plane = plane

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: http and lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            path, headers, close = scope["path"], dict(scope["headers"]), self.plane.state.draining
            try:
                body = await self._read(headers, receive) if scope["method"] == "POST" else b""
            except ClientLeftError:
                return
            found = self.plane.look_up(scope["method"], path, body or b"")
            if found is None:
                request = request_of(prediction_kind(path) or "", headers, body or b"")
                if body is None:
                    found, close = self.plane.too_large(request), True
                else:
                    found = await self._handled(request)
            head = head_of(found, close=close or self.plane.state.draining)
            await send({"type": "http.response.start", "status": found.status, "headers": head})
            await send({"type": "http.response.body", "body": found.body.data})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                self.plane.drain()
                await asyncio.get_running_loop().run_in_executor(None, self.plane.close)
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _handled(self, request: Request) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.plane.handle(request, lambda found: None if future.cancelled() else future.set_result(found))
        return await future

    async def _read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
        """The whole body; None where it is longer than allowed. Raises ClientLeftError."""
        length = headers.get(b"content-length", b"").decode("latin-1")
        if is_length(length) and int(length) > self.plane.largest_body:
            return None
        parts, size, more = [], 0, True
        while more and size <= self.plane.largest_body:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientLeftError
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
        return b"".join(parts) if size <= self.plane.largest_body else None
