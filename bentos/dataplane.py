"""The server as a plain ASGI application: routes, headers, the prediction log. No framework on the request's path."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson

from bentos.answer import ERROR_FORMS, Answer, Request, answer
from bentos.live import Live
from bentos.metrics import CONTENT_TYPE, ServerMetrics
from bentos.segments import Record, SegmentWriter
from bentos.wire import openapi, v2
from bentos.wire.interface import Body

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

LARGEST_BODY = 64 << 20
CHEAP_SECONDS = 0.0003  # a model faster than this answers small requests on the event loop itself
SMALL_BODY = 32 << 10
_ASSIGNED = re.compile(r"(baseline|candidate)/[\w.+-]{1,64}")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class DataPlane:
    """Answers for the live version; ``swap`` exchanges it between two requests.

    One predict is in flight at a time, in a thread, so that health and metrics stay responsive; cheap models answer small
    requests at once. *largest_body* in bytes: longer ones get 413.
    """

    def __init__(
        self,
        live: Live,
        *,
        writer: SegmentWriter | None = None,
        deployment: str = "",
        largest_body: int = LARGEST_BODY,
    ) -> None:
        self.live = live
        self.metrics = ServerMetrics(writer)
        self.metrics.serve(live.model, live.version)
        self.deployment = deployment
        self.draining = False
        self.refused = ""  # why the version the alias names is not the one that answers
        self._writer = writer
        self._largest_body = largest_body
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="predict")
        self._in_pool = 0

    def swap(self, live: Live) -> None:
        """Answers with *live* from the next request on; requests in flight finish on the version they began with."""
        self.live = live
        self.refused = ""
        self.metrics.serve(live.model, live.version)
        self.metrics.reloaded("taken")

    def refuse(self, reason: str) -> None:
        """Keeps the live version and says why another one was not taken."""
        self.refused = reason
        self.metrics.reloaded("refused", reason)

    def accept(self) -> None:
        """Forgets a refusal: the alias names the live version again."""
        self.refused = ""
        self.metrics.reloaded("kept")

    def drain(self) -> None:
        """Not ready any more, and every connection closes after its answer."""
        self.draining = True

    def close(self) -> None:
        """Waits for predictions in flight and writes the log out."""
        self._pool.shutdown(wait=True)
        if self._writer is not None:
            self._writer.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: http and lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            live = self.live
            path = scope["path"]
            kind = _prediction_kind(path)
            if kind is None:
                status, body = self._look_up(live, path)
                if status == 200 and scope["method"] not in ("GET", "HEAD"):
                    status, body = _error(path, 405, f"{path}: expected GET, found {scope['method']}")
                await self._send(send, live, Answer(status, body), [])
            else:
                await self._predict(live, kind, path, scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                self.drain()
                await asyncio.get_running_loop().run_in_executor(None, self.close)
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _predict(self, live: Live, kind: str, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if kind == "v2" and (unknown := _unknown_model(live, path)):
            await self._send(send, live, Answer(404, v2.encode_error(unknown)), [])
            return
        if scope["method"] != "POST":
            found = Answer(*_error(path, 405, f"{path}: expected POST, found {scope['method']}"))
            await self._send(send, live, found, [])
            return
        arrived = time.time_ns()
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        body = await self._read(headers, receive)
        started = time.perf_counter_ns()
        request = Request(
            headers.get(b"content-type", ""),
            headers.get(b"content-encoding", "").lower(),
            headers.get(b"inference-header-content-length", ""),
            body or b"",
        )
        if body is None:
            limit = f"expected a body of at most {self._largest_body} bytes; send fewer rows at once"
            found = Answer(413, ERROR_FORMS[kind](413, limit))
        else:
            found = await self._answer(kind, live, request)
        latency = time.perf_counter_ns() - started
        request_id = headers.get(b"x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = os.urandom(16).hex()
        assigned = headers.get(b"x-shipway-assigned", "")
        if not _ASSIGNED.fullmatch(assigned):
            assigned = ""
        self.metrics.observe(live.model, live.version, kind, found.status, latency)
        if self._writer is not None:
            self._writer.append(
                Record(
                    request_id,
                    arrived,
                    assigned,
                    _mirrored(headers.get(b"host", "")),
                    _attempt(headers.get(b"x-envoy-attempt-count", "")),
                    live.version,
                    found.status,
                    latency,
                    kind,
                    request.content_type,
                    int(request.header_length) if _is_length(request.header_length) else 0,
                    found.body.content_type,
                    found.body.header_length,
                    request.body,
                    found.body.data,
                    request_truncated=body is None,
                )
            )
        await self._send(send, live, found, _arm(live.version, assigned, request_id), close=body is None)

    async def _answer(self, kind: str, live: Live, request: Request) -> Answer:
        if not self._in_pool and live.seconds < CHEAP_SECONDS and len(request.body) <= SMALL_BODY:
            return answer(kind, live, request)
        self._in_pool += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, answer, kind, live, request)
        finally:
            self._in_pool -= 1

    async def _read(self, headers: dict[bytes, str], receive: Receive) -> bytes | None:
        """The whole body, b"" where the client went away; None where it is longer than allowed."""
        length = headers.get(b"content-length", "")
        if _is_length(length) and int(length) > self._largest_body:
            return None
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        if not message.get("more_body", False):
            body = bytes(message.get("body", b""))
            return body if len(body) <= self._largest_body else None
        parts, size = [message.get("body", b"")], len(message.get("body", b""))
        while message.get("more_body", False) and size <= self._largest_body:
            message = await receive()
            if message["type"] == "http.disconnect":
                return b""
            parts.append(message.get("body", b""))
            size += len(parts[-1])
        return b"".join(parts) if size <= self._largest_body else None

    def _look_up(self, live: Live, path: str) -> tuple[int, Body]:
        """Every answer that is no prediction."""
        if path.startswith("/v2"):
            return self._look_up_v2(live, path)
        if path in ("/ping", "/health"):
            return 200, Body(b"\n")
        if path == "/livez":
            return 200, Body(b"ok\n", "text/plain; charset=utf-8")
        if path == "/readyz":
            state = {
                "ready": not self.draining,
                "model": live.model,
                "version": live.version,
                "deployment": self.deployment,
                "refused": self.refused,
            }
            return 503 if self.draining else 200, Body(orjson.dumps(state))
        if path == "/version":
            return 200, Body(live.mlflow_version.encode(), "text/plain; charset=utf-8")
        if path == "/metrics":
            return 200, Body(self.metrics.render(), CONTENT_TYPE)
        if path == "/openapi.json":
            return 200, Body(orjson.dumps(openapi.describe(live.runner.signature, live.model, live.version)))
        if path == "/docs":
            page = openapi.page(openapi.describe(live.runner.signature, live.model, live.version))
            return 200, Body(page.encode(), "text/html; charset=utf-8")
        return _error(path, 404, f"{path}: no such page; /docs lists what there is")

    def _look_up_v2(self, live: Live, path: str) -> tuple[int, Body]:
        if path in ("/v2", "/v2/"):
            return 200, Body(orjson.dumps({"name": "shipway", "version": "1", "extensions": list(v2.EXTENSIONS)}))
        if path == "/v2/health/live":
            return 200, Body(b'{"live":true}')
        if path == "/v2/health/ready":
            return (503, v2.encode_error("draining")) if self.draining else (200, Body(b'{"ready":true}'))
        if not path.startswith("/v2/models/"):
            return _error(path, 404, f"{path}: no such endpoint of the Open Inference Protocol")
        if unknown := _unknown_model(live, path):
            return 404, v2.encode_error(unknown)
        if path.endswith("/ready"):
            return (503, v2.encode_error("draining")) if self.draining else (200, Body(b'{"ready":true}'))
        found = v2.metadata(live.runner.signature, live.model, live.version, probabilities=live.probabilities)
        return 200, Body(orjson.dumps(found))

    async def _send(
        self, send: Send, live: Live, found: Answer, extra: list[tuple[bytes, bytes]], *, close: bool = False
    ) -> None:
        data, content_type, header_length = found.body
        headers = [
            (b"content-type", content_type.encode()),
            (b"content-length", str(len(data)).encode()),
            *live.headers,
            *extra,
        ]
        if header_length:
            headers.append((b"inference-header-content-length", str(header_length).encode()))
        if self.draining or close:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": found.status, "headers": headers})
        await send({"type": "http.response.body", "body": data})


def _prediction_kind(path: str) -> str | None:
    if path == "/invocations":
        return "invocations"
    return "v2" if path.endswith("/infer") and path.startswith("/v2/models/") else None


def _unknown_model(live: Live, path: str) -> str:
    """Why ``/v2/models/<name>[/versions/<v>][/ready|/infer]`` is not about the live version; "" where it is."""
    rest = path.removeprefix("/v2/models/")
    for ending in ("/infer", "/ready"):
        rest = rest.removesuffix(ending)
    if rest in (live.model, f"{live.model}/versions/{live.version}"):
        return ""
    return f"expected the model {live.model!r}, version {live.version!r}, found {rest[:200]!r}"


def _arm(version: str, assigned: str, request_id: str) -> list[tuple[bytes, bytes]]:
    """Who answered and for whom: the assigned arm where this is its version, else the baseline in its place."""
    arm, _, wanted = assigned.partition("/")
    ours = wanted == version
    headers = [
        (b"x-request-id", request_id.encode()),
        (b"x-shipway-arm", arm.encode() if ours and arm else b"baseline"),
    ]
    if assigned and not ours:
        headers.append((b"x-shipway-fallback", assigned.encode()))
    return headers


def _mirrored(authority: str) -> bool:
    """Envoy ends the host of a mirrored copy with ``-shadow``, before the port."""
    host, _, port = authority.rpartition(":")
    return (host if host and port.isdigit() else authority).endswith("-shadow")


def _attempt(text: str) -> int:
    return int(text) if _is_length(text) else 1


def _is_length(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _error(path: str, status: int, message: str) -> tuple[int, Body]:
    return status, ERROR_FORMS["v2" if path.startswith("/v2") else "invocations"](status, message)
