"""Requests read from the bytes of one HTTP/1.1 connection, on httptools' parser: sizes, heads and where they end.

IDLE ── first byte ──▶ HEAD ── empty line ──▶ BODY ── last byte ──▶ IDLE, or CLOSED after the last request
  └──────────────┴────────── refused, or ended ─────┴──────────────▶ CLOSED
"""

from __future__ import annotations

import time
from typing import NamedTuple, Protocol
from urllib.parse import unquote

import httptools

from bentos.serving.server.dataplane import DataPlane, Page, Route
from bentos.serving.server.heads import continues, declared_length, request_of
from bentos.serving.server.messages import Answer
from bentos.serving.wire.interface import Body

LARGEST_HEAD = 64 << 10  # bytes of URL and headers; longer ones get 431
LARGEST_READ = 512 << 10  # bytes that may come before a head in one read; uvloop reads 256 KiB at once
LONGEST_CUT = 1 << 20  # bytes of a body longer than allowed that the prediction log gets
_PATHS: dict[
    bytes, str
] = {}  # URL → path, of the URLs seen last; functools.lru_cache takes 20 to 90 ns longer to answer
_REMEMBERED = 1024

IDLE, HEAD, BODY, CLOSED = range(4)
"""What is read now: nothing, the head of a request, its body; CLOSED: nothing more is read."""


class Asked(NamedTuple):
    """A whole request."""

    method: str
    route: Route
    headers: dict[bytes, bytes]
    body: bytes
    keep: bool  # whether the connection may stay open after the answer


class Connection(Protocol):
    """Who the requests are read for."""

    def asked(self, request: Asked) -> None:
        """A request is whole."""

    def goodbye(self, found: Answer) -> None:
        """A request was refused before it was whole; nothing more is read."""

    def go_on(self) -> None:
        """The client waits to be told that it may send the body."""


class Reader:
    """Reads for *connection*. What the parser calls is called from ``feed``."""

    def __init__(self, plane: DataPlane, connection: Connection) -> None:
        self.state = IDLE
        self.since = time.monotonic()  # when the request that is being read began
        self._plane = plane
        self._connection = connection
        self._parser = httptools.HttpRequestParser(self)
        self._after = IDLE  # the state after the request that is being read
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._route: Route | None = None
        self._parts: list[bytes] = []
        self._size = self._head_size = 0
        self._fed = 0  # bytes since the last of a head or body: the parser keeps an unfinished header to itself
        self._rest = 0  # bytes of a body still to come that the parser leaves, as an upgrade was asked for too

    def feed(self, data: bytes) -> None:
        """Bytes came."""
        if self.state == CLOSED:
            return
        if self._rest:
            self._rest_of(data)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:  # answered as if it had not been asked for, and closed after it
            self._rest_of(data[upgrade.args[0] :])
            self.finish()
        except httptools.HttpParserError:
            self._refuse(400, b"expected HTTP/1.1, found something else")
        if self.state in (HEAD, BODY):
            self._fed += len(data)
            if self._fed > LARGEST_HEAD + LARGEST_READ:
                self._too_long()

    def finish(self) -> None:
        """The request that is being read, where there is one, is the last."""
        self._after = CLOSED
        if self.state == IDLE:
            self.state = CLOSED

    def close(self) -> None:
        """Nothing more is read."""
        self.state = self._after = CLOSED

    def late(self) -> None:
        """The request that is being read was not whole in time."""
        self._refuse(408, b"the request was not whole in time")

    # -- the parser

    def on_message_begin(self) -> None:
        """A request begins."""
        if self.state == CLOSED:
            return
        self.state = HEAD
        self._url = b""
        self._headers = {}
        self._parts = []
        self._size = self._head_size = self._fed = 0
        self.since = time.monotonic()

    def on_url(self, url: bytes) -> None:
        """A part of the URL."""
        self._url += url
        self._head_size += len(url)
        if self._head_size > LARGEST_HEAD:
            self._too_long()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; of several with one name the last counts, and trailers count for nothing."""
        if self.state == HEAD:
            self._headers[name.lower()] = value
        self._head_size += len(name) + len(value) + 4
        if self._head_size > LARGEST_HEAD:
            self._too_long()

    def _too_long(self) -> None:
        self._refuse(431, b"expected at most 65536 bytes of URL and headers")

    def on_headers_complete(self) -> None:
        """The head is whole."""
        if self.state == CLOSED:
            return
        self.state = BODY
        self._fed = 0
        self._route = self._plane.resolve(self._parser.get_method().decode("ascii"), self._path())
        length = declared_length(self._headers)
        if length > self._plane.largest_body:
            self._too_large()
            return
        if b"upgrade" in self._headers and self._parser.should_upgrade():
            self._after = CLOSED
            self._rest = max(0, length)
            if b"transfer-encoding" in self._headers:
                self._refuse(411, b"expected a body with content-length, or no upgrade")
                return
        if b"expect" in self._headers and continues(self._headers):
            self._connection.go_on()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if self.state == CLOSED:
            return
        self._parts.append(body)
        self._size += len(body)
        self._fed = 0
        if self._size > self._plane.largest_body:
            self._too_large()

    def on_message_complete(self) -> None:
        """The request is whole."""
        if self.state == CLOSED or self._route is None or self._rest:
            return
        self.state = self._after
        parser, parts = self._parser, self._parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        keep = parser.should_keep_alive() and parser.get_http_version() != "1.0" and not parser.should_upgrade()
        self._connection.asked(Asked(parser.get_method().decode("ascii"), self._route, self._headers, body, keep))

    def _rest_of(self, data: bytes) -> None:
        """The body of a request that asked for an upgrade beside it; what comes behind is not read."""
        if not self._rest:
            return
        data = data[: self._rest]
        self._rest -= len(data)
        if data:
            self.on_body(data)
        if not self._rest:
            self.on_message_complete()

    def _path(self) -> str:
        path = _PATHS.get(self._url)
        if path is None:
            if len(_PATHS) >= _REMEMBERED:
                _PATHS.clear()
            path = _path_of(self._url)
            if len(self._url) <= 256:
                _PATHS[self._url] = path
        return path

    def _too_large(self) -> None:
        route = self._route
        if route is None or isinstance(route, Page):
            self._refuse(413, b"expected a smaller body")
            return
        request = request_of(route.kind, self._headers, b"".join(self._parts)[:LONGEST_CUT])
        self.close()
        self._connection.goodbye(self._plane.too_large(route.served, request))

    def _refuse(self, status: int, reason: bytes) -> None:
        if self.state != CLOSED:
            self.close()
            self._connection.goodbye(Answer(status, Body(reason + b"\n", "text/plain; charset=utf-8")))


def _path_of(url: bytes) -> str:
    url = url.partition(b"?")[0]
    if not url.startswith(b"/"):  # the absolute form
        url = b"/" + url.partition(b"://")[2].partition(b"/")[2]
    return unquote(url.decode("latin-1"))
