"""HTTP/1.1 straight onto the data plane: a protocol of uvicorn's server, on httptools' parser.

uvicorn keeps the sockets, the signals and the shutdown; what it would do for each request (a scope, a task, an event, a
cycle of messages) is left out, because a prediction needs a whole body and gives a whole answer. Answers leave in the order
of their requests. Slow clients hold nothing but their own connection: see ``sweep``.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import deque
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote

import httptools

from bentos.serving.server.answer import Answer, Request
from bentos.serving.server.dataplane import DataPlane, prediction_kind
from bentos.serving.server.exchange import request_of

logger = logging.getLogger("shipway.server")

LARGEST_HEAD = 64 << 10  # bytes of URL and headers; longer ones get 431
LARGEST_READ = 512 << 10  # bytes that may come before a head in one read; uvloop reads 256 KiB at once
IDLE_SECONDS = 75.0  # a connection without a request is closed after this long
BODY_SECONDS = 30.0  # a request must be whole, and an answer taken, after this long
AT_ONCE = 8  # requests of one connection that are answered before others have their turn …
TURN_SECONDS = 0.0002  # … or as many as are answered within this, if that is fewer
GOODBYE_SECONDS = 2.0  # what a refused client still sends is read for this long, so that it sees its answer
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
# plain dictionaries: each request looks into both, and functools.lru_cache takes 20 to 90 ns longer to answer
_PATHS: dict[bytes, str] = {}  # URL → path, of the URLs seen last
_HEADS: dict[tuple[Any, ...], bytes] = {}  # status, content type and server → the bytes that say so
_REMEMBERED = 1024
RETIRED = (
    b"connection",
    b"close",
)  # among the server's own headers: it takes no more requests; see bentos.serving.server.replaceable
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def protocol(plane: DataPlane) -> Any:
    """What uvicorn's Config takes as ``http``: makes a protocol for each connection."""
    return functools.partial(Http1, plane)


class Http1(asyncio.Protocol):
    """One connection."""

    def __init__(self, plane: DataPlane, config: Any, server_state: Any, app_state: Any, _loop: Any = None) -> None:
        self.plane = plane
        self.since = time.monotonic()  # when the request or the wait that is going on began
        self._state = server_state
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        self._size = self._head_size = 0
        self._reading = False  # between the first byte of a request and its last
        self._heading = False  # … and the last of its head
        self._head_fed = 0  # bytes that came meanwhile: the parser keeps an unfinished header to itself
        self._last = False  # the request that is being read is the last one
        self._ended = False  # the client sends nothing more
        self._answering = False
        self._blocked = False  # the client does not take what is written
        self._closing = False  # nothing more is read
        self._paused = False
        self._turning = False
        self._spent = 0  # answers that this connection got in this turn of the loop …
        self._until = 0.0  # … which ends then; on the clock of time.perf_counter
        self._asked = False  # another turn is asked for
        self._waiting: deque[tuple[str, str, dict[bytes, bytes], bytes, bool]] = deque()

    # -- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by class
        self._state.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone; an answer on its way goes nowhere."""
        self._state.connections.discard(self)
        self._transport = None
        self._waiting.clear()

    def eof_received(self) -> bool:
        """The client sends nothing more; answers on their way still go out."""
        self._ended = True
        return self._answering or bool(self._waiting)

    def shutdown(self) -> None:
        """The server stops: closes now, or after the answers on their way and to the request that is being read."""
        if self._reading and not self._closing:
            self._last = True
        else:
            self._closing = True
            if not self._answering and not self._waiting and self._transport is not None:
                self._transport.close()

    def pause_writing(self) -> None:
        """The client reads more slowly than it is answered: nothing more is read from it."""
        self._blocked = True
        self.since = time.monotonic()
        self._pause()

    def resume_writing(self) -> None:
        """It caught up."""
        self._blocked = False
        self.since = time.monotonic()
        self._next()

    def sweep(self, now: float) -> None:
        """Closes the connection where its client has taken too long; *now* is on the clock of time.monotonic."""
        if self._transport is None:
            return
        waited = now - self.since
        if self._blocked and waited > BODY_SECONDS:
            self._transport.abort()
        elif self._reading and not self._closing and not self._paused and waited > BODY_SECONDS:
            self._refuse(408, b"the request was not whole in time")
        elif not (self._answering or self._reading or self._blocked) and waited > IDLE_SECONDS:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._closing:
            return
        if not self._asked:
            self._spent = 0
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.shutdown()  # answered as if it had not been asked for, and closed after it
        except httptools.HttpParserError:
            if not self._closing:
                self._refuse(400, b"expected HTTP/1.1, found something else")
        if self._heading:
            self._head_fed += len(data)
            if self._head_fed > LARGEST_HEAD + LARGEST_READ:
                self._too_long()

    # -- the parser

    def on_message_begin(self) -> None:
        """A request begins."""
        self._url = b""
        self._headers = {}
        self._parts = []
        self._size = self._head_size = self._head_fed = 0
        self._reading = self._heading = True
        self.since = time.monotonic()

    def on_url(self, url: bytes) -> None:
        """A part of the URL."""
        self._url += url
        self._head_size += len(url)
        if self._head_size > LARGEST_HEAD:
            self._too_long()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; of several with one name the last counts, and trailers count for nothing."""
        if self._heading:
            self._headers[name.lower()] = value
        self._head_size += len(name) + len(value) + 4
        if self._head_size > LARGEST_HEAD:
            self._too_long()

    def _too_long(self) -> None:
        if not self._closing:
            self._refuse(431, b"expected at most 65536 bytes of URL and headers")

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._heading = False
        if self._closing:
            return
        length, expect = self._headers.get(b"content-length"), self._headers.get(b"expect")
        if length is not None and int(length) > self.plane.largest_body:  # the parser has seen to its digits
            self._too_large()
        elif expect is not None and expect.lower() == b"100-continue" and self._transport is not None:
            self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if self._closing:
            return
        self._parts.append(body)
        self._size += len(body)
        if self._size > self.plane.largest_body:
            self._too_large()

    def on_message_complete(self) -> None:
        """The request is whole: answers it, or puts it behind those that came before it."""
        self._reading = False
        if self._closing:
            return
        self._closing = self._last
        parts = self._parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        path = self._path()
        method = self._parser.get_method().decode("ascii")
        parser = self._parser
        keep = parser.should_keep_alive() and parser.get_http_version() != "1.0" and not parser.should_upgrade()
        self._waiting.append((method, path, self._headers, body, keep))
        if self._answering or self._blocked or self._asked:
            self._pause()
        else:
            self._next()

    def _path(self) -> str:
        path = _PATHS.get(self._url)
        if path is None:
            if len(_PATHS) >= _REMEMBERED:
                _PATHS.clear()
            path = _path_of(self._url)
            if len(self._url) <= 256:
                _PATHS[self._url] = path
        return path

    # -- answers

    def _next(self) -> None:
        """Takes on what waits, until an answer is not there at once; an answer that comes later goes on from there."""
        if self._turning:
            return
        self._turning = True
        try:
            while self._waiting and not self._answering and not self._blocked and self._transport is not None:
                if not self._spent:
                    self._until = time.perf_counter() + TURN_SECONDS
                elif self._spent >= AT_ONCE or time.perf_counter() > self._until:
                    self._ask_for_a_turn()
                    return
                self._answering = True
                method, path, headers, body, keep = self._waiting.popleft()
                found = self.plane.look_up(method, path, body)
                if found is not None:
                    self._answer(method, keep, found)
                else:
                    request = request_of(prediction_kind(path) or "", headers, body)
                    self.plane.handle(request, functools.partial(self._answer, method, keep))
                if not self._answering:
                    self._spent += 1
        except Exception:  # an end is better than a connection that nobody answers
            logger.exception("a request could not be answered")
            if self._transport is not None:
                self._transport.abort()
        finally:
            self._turning = False
        if self._paused and not self._waiting and not self._blocked and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def _ask_for_a_turn(self) -> None:
        """Goes on after everybody else had a turn: a client may send thousands of requests without waiting for answers."""
        self._pause()
        if not self._asked:
            self._asked = True
            asyncio.get_running_loop().call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._asked = False
        self._spent = 0
        self._next()

    def _pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _answer(self, method: str, keep: bool, found: Answer) -> None:
        self._answering = False
        self.since = time.monotonic()
        if self._transport is None:
            return
        self._state.total_requests += 1
        going = self._closing or self._ended or self.plane.state.draining or RETIRED in self._state.default_headers
        close = not keep or (going and not self._waiting)
        body = b"" if method == "HEAD" else found.body.data
        self._transport.write(_head(found, close=close) + body)
        if close:
            self._closing = True
            self._waiting.clear()
            self._transport.close()
        else:
            self._next()

    def _too_large(self) -> None:
        kind = prediction_kind(self._path())
        if kind is None:
            self._refuse(413, b"expected a smaller body")
            return
        request: Request = request_of(kind, self._headers, b"".join(self._parts)[: 1 << 20])
        self._goodbye(self.plane.too_large(request))

    def _refuse(self, status: int, reason: bytes) -> None:
        from bentos.serving.wire.interface import Body

        self._goodbye(Answer(status, Body(reason + b"\n", "text/plain; charset=utf-8")))

    def _goodbye(self, found: Answer) -> None:
        """Answers a request that is not whole, reads no more of it, and closes once the client had time to see that."""
        self._closing = True
        self._reading = False
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._answering or self._waiting:  # answers are owed before this one: there is no saying this in order
            return
        transport.write(_head(found, close=True) + found.body.data)
        asyncio.get_running_loop().call_later(GOODBYE_SECONDS, transport.close)


def _head(found: Answer, *, close: bool) -> bytes:
    """The status line and the headers, up to the body."""
    data, content_type, header_length = found.body
    known = found.status, content_type, found.server
    start = _HEADS.get(known)
    if start is None:
        if len(_HEADS) >= _REMEMBERED:
            _HEADS.clear()
        lines = [b"%b: %b\r\n" % pair for pair in ((b"content-type", content_type.encode()), *found.server)]
        start = _HEADS[known] = b"".join([_STATUS_LINES[found.status], *lines, b"content-length: "])
    rest = b"".join([b"%b: %b\r\n" % pair for pair in found.headers])
    if header_length:
        rest += b"inference-header-content-length: %d\r\n" % header_length
    if close:
        rest += b"connection: close\r\n"
    return b"%b%d\r\n%b\r\n" % (start, len(data), rest)


def _path_of(url: bytes) -> str:
    url = url.partition(b"?")[0]
    if not url.startswith(b"/"):  # the absolute form
        url = b"/" + url.partition(b"://")[2].partition(b"/")[2]
    return unquote(url.decode("latin-1"))
