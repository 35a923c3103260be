"""The data plane as an ASGI application, for servers that are not ours; `bentoml serve` is one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from bentos.serving.server.dataplane import DataPlane, Page, Prediction
from bentos.serving.server.heads import declared_length, head_of, request_of
from bentos.serving.server.messages import Answer

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
            headers, close = dict(scope["headers"]), self.plane.state.draining
            route = self.plane.resolve(scope["method"], scope["path"])
            try:
                body = await self._read(headers, receive) if scope["method"] == "POST" else b""
            except ClientLeftError:
                return
            if isinstance(route, Page):
                found = route.answer(body or b"")
            elif body is None:
                found, close = self.plane.too_large(route.served, request_of(route.kind, headers, b"")), True
            else:
                found = await self._predicted(route, headers, body)
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

    async def _predicted(self, route: Prediction, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.plane.predict(
            route.served,
            request_of(route.kind, headers, body),
            lambda found: None if future.cancelled() else future.set_result(found),
        )
        return await future

    async def _read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
        """The whole body; None where it is longer than allowed. Raises ClientLeftError."""
        if declared_length(headers) > self.plane.largest_body:
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
