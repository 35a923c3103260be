"""HTTP/1.1 straight onto the data plane: a protocol of uvicorn's server.

uvicorn keeps the sockets, the signals and the shutdown; what it would do for each request (a scope, a task, an event, a
cycle of messages) is left out, because a prediction needs a whole body and gives a whole answer. Answers leave in the order
of their requests. Slow clients hold nothing but their own connection: see ``sweep``. What is read is the Reader's affair
(bentos/serving/server/http1_reader.py); here is what is written:

    FREE ── a request ──▶ TAKING ──▶ ASKING ── its answer is there at once ──▶ TAKING ── none waits ──▶ FREE
                            │          └────── it comes later ──▶ ANSWERING ── the answer ──▶ TAKING
                            └── had its share of this turn of the loop ──▶ YIELDING ── the next turn ──▶ TAKING
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import deque
from http import HTTPStatus
from typing import Any, cast

from bentos.serving.server.dataplane import DataPlane, Page
from bentos.serving.server.heads import request_of
from bentos.serving.server.http1_reader import BODY, CLOSED, HEAD, Asked, Reader
from bentos.serving.server.messages import Answer

logger = logging.getLogger("shipway.server")

IDLE_SECONDS = 75.0  # a connection without a request is closed after this long
BODY_SECONDS = 30.0  # a request must be whole, and an answer taken, after this long
AT_ONCE = 8  # requests of one connection that are answered before others have their turn …
TURN_SECONDS = 0.0002  # … or as many as are answered within this, if that is fewer
GOODBYE_SECONDS = 2.0  # what a refused client still sends is read for this long, so that it sees its answer
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
# a plain dictionary: each request looks into it, and functools.lru_cache takes 20 to 90 ns longer to answer
_HEADS: dict[tuple[Any, ...], bytes] = {}  # status, content type and server → the bytes that say so
_REMEMBERED = 1024
RETIRED = (
    b"connection",
    b"close",
)  # among the server's own headers: it takes no more requests; see bentos.serving.server.replaceable
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

FREE, TAKING, ASKING, ANSWERING, YIELDING = range(5)
"""What is done for the requests that wait: nothing; they are taken on; one is handed on; its answer is still to come; others
have their turn."""


def protocol(plane: DataPlane) -> Any:
    """What uvicorn's Config takes as ``http``: makes a protocol for each connection."""
    return functools.partial(Http1, plane)


class Http1(asyncio.Protocol):
    """One connection."""

    def __init__(self, plane: DataPlane, config: Any, server_state: Any, app_state: Any, _loop: Any = None) -> None:
        self.plane = plane
        self._server = server_state
        self._reader = Reader(plane, self)
        self._transport: asyncio.Transport | None = None
        self._since = time.monotonic()  # when the last answer was written, or the client stopped taking or took again
        self._state = FREE
        self._blocked = False  # the client does not take what is written
        self._paused = False  # nothing is read for now
        self._spent = 0  # answers that this connection got in this turn of the loop …
        self._until = 0.0  # … which ends then; on the clock of time.perf_counter
        self._waiting: deque[Asked] = deque()

    # -- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by class
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone; an answer on its way goes nowhere."""
        self._server.connections.discard(self)
        self._transport = None
        self._waiting.clear()

    def eof_received(self) -> bool:
        """The client sends nothing more; answers on their way still go out."""
        self._reader.close()
        return self._owes()

    def shutdown(self) -> None:
        """The server stops: closes now, or after the answers on their way and to the request that is being read."""
        self._reader.finish()
        if self._reader.state == CLOSED and not self._owes() and self._transport is not None:
            self._transport.close()

    def pause_writing(self) -> None:
        """The client reads more slowly than it is answered: nothing more is read from it."""
        self._blocked = True
        self._since = time.monotonic()
        self._pause()

    def resume_writing(self) -> None:
        """It caught up."""
        self._blocked = False
        self._since = time.monotonic()
        if self._state == FREE:
            self._take()

    def sweep(self, now: float) -> None:
        """Closes the connection where its client has taken too long; *now* is on the clock of time.monotonic."""
        if self._transport is None:
            return
        waited, reading = now - self._since, self._reader.state
        if self._blocked:
            if waited > BODY_SECONDS:
                self._transport.abort()
        elif reading in (HEAD, BODY):
            if not self._paused and min(waited, now - self._reader.since) > BODY_SECONDS:
                self._reader.late()
        elif self._state == FREE and waited > IDLE_SECONDS:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._state != YIELDING:
            self._spent = 0
        self._reader.feed(data)

    # -- requests

    def asked(self, request: Asked) -> None:
        """Answers a whole request, or puts it behind those that came before it."""
        self._waiting.append(request)
        if self._state == FREE and not self._blocked:
            self._take()
        else:
            self._pause()

    def go_on(self) -> None:
        """The client may send the body."""
        if self._transport is not None:
            self._transport.write(_CONTINUE)

    def goodbye(self, found: Answer) -> None:
        """Answers a request that is not whole, and closes once the client had time to see that."""
        transport = self._transport
        if transport is None or transport.is_closing() or self._owes():
            return  # where answers are owed before this one there is no saying it in order
        transport.write(_head(found, close=True) + found.body.data)
        asyncio.get_running_loop().call_later(GOODBYE_SECONDS, transport.close)

    # -- answers

    def _owes(self) -> bool:
        return self._state in (ASKING, ANSWERING) or bool(self._waiting)

    def _take(self) -> None:
        """Takes on what waits, until an answer is not there at once; an answer that comes later goes on from there."""
        self._state = TAKING
        try:
            while self._waiting and not self._blocked and self._transport is not None:
                if not self._spent:
                    self._until = time.perf_counter() + TURN_SECONDS
                elif self._spent >= AT_ONCE or time.perf_counter() > self._until:
                    self._yield()
                    return
                self._hand_on(self._waiting.popleft())
                if self._state != TAKING:
                    return
                self._spent += 1
        except Exception:  # an end is better than a connection that nobody answers
            logger.exception("a request could not be answered")
            if self._transport is not None:
                self._transport.abort()
            return
        self._state = FREE
        if self._paused and not self._waiting and not self._blocked and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def _hand_on(self, request: Asked) -> None:
        method, route, headers, body, keep = request
        self._state = ASKING
        if isinstance(route, Page):
            self._answer(method, keep, route.answer(body))
        else:
            kind, served = route
            self.plane.predict(served, request_of(kind, headers, body), functools.partial(self._answer, method, keep))
        if self._state == ASKING:
            self._state = ANSWERING

    def _answer(self, method: str, keep: bool, found: Answer) -> None:
        later, self._state = self._state == ANSWERING, TAKING
        self._since = time.monotonic()
        if self._transport is None:
            return
        self._server.total_requests += 1
        going = self._reader.state == CLOSED or self.plane.state.draining or RETIRED in self._server.default_headers
        close = not keep or (going and not self._waiting)
        body = b"" if method == "HEAD" else found.body.data
        self._transport.write(_head(found, close=close) + body)
        if close:
            self._reader.close()
            self._waiting.clear()
            self._transport.close()
        elif later:
            self._take()

    def _yield(self) -> None:
        """Goes on after everybody else had a turn: a client may send thousands of requests without waiting for answers."""
        self._state = YIELDING
        self._pause()
        asyncio.get_running_loop().call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._spent = 0
        self._take()

    def _pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()


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
