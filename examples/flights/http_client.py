"""A small HTTP/1.1 client over keep-alive connections that never retries: whatever goes wrong is told to the caller."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import httptools

from bentos.serving.errors import TransientError


class ExchangeError(TransientError):
    """A request without a whole answer; ``kind`` is refused, reset, timeout or malformed."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind = kind


@dataclass(frozen=True)
class Answer:
    """A whole answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Connection(asyncio.Protocol):
    """One connection, one exchange at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.reusable = True
        self._waiting: asyncio.Future[Answer] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.reusable = False
        self._fail("reset", f"connection closed before the answer: {error or 'end of stream'}")

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail("malformed", f"not an HTTP answer: {error}")
            self.close()

    def on_message_begin(self) -> None:
        self._headers, self._body = {}, []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self.reusable = self.reusable and self._parser.should_keep_alive()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(Answer(self._parser.get_status_code(), self._headers, b"".join(self._body)))

    def send(self, data: bytes) -> asyncio.Future[Answer]:
        assert self.transport is not None
        self._parser = httptools.HttpResponseParser(self)
        self._waiting = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        return self._waiting

    def close(self) -> None:
        self.reusable = False
        if self.transport is not None:
            self.transport.abort()

    def _fail(self, kind: str, what: str) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ExchangeError(kind, what))


class HttpClient:
    """Posts to one server over as many keep-alive connections as are in use at once."""

    def __init__(self, url: str, *, timeout: float) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"expected http://host:port, found {url!r}")
        self._host, self._port, self._timeout = parts.hostname, parts.port or 80, timeout
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """One exchange of JSON; raises ExchangeError where there is no whole answer within the timeout (seconds)."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n{lines}\r\n"
        )
        connection: _Connection | None = None
        try:
            async with asyncio.timeout(self._timeout):
                connection = await self._take()
                answer = await connection.send(head.encode("latin-1") + body)
        except TimeoutError:
            self._drop(connection)
            raise ExchangeError("timeout", f"no answer to POST {path} within {self._timeout:g} s") from None
        except OSError as error:
            raise ExchangeError("refused", f"cannot connect to {self._host}:{self._port}: {error}") from error
        except (ExchangeError, asyncio.CancelledError):
            self._drop(connection)
            raise
        if connection.reusable:
            self._idle.append(connection)
        else:
            self._drop(connection)
        return answer

    async def _take(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
            self._drop(connection)
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self._host, self._port)
        self._open.add(connection)
        return connection

    def _drop(self, connection: _Connection | None) -> None:
        if connection is not None:
            connection.close()
            self._open.discard(connection)

    def close(self) -> None:
        """Closes every connection."""
        for connection in list(self._open):
            self._drop(connection)
        self._idle.clear()
