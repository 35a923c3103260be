"""Heads: what the headers of a request say, and those of an answer. HTTP and gRPC come through here, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping

from bentos.serving.server.messages import Answer, Request
from bentos.serving.wire.v2.grpc_status import timeout_seconds


def request_of(kind: str, headers: Mapping[bytes, bytes], body: bytes) -> Request:
    """A prediction request from headers, or gRPC's metadata, whose names are in lower case, and the whole *body*."""
    get = headers.get
    length, encoding, accept = get(b"inference-header-content-length"), get(b"content-encoding"), get(b"accept")
    request_id, assigned, attempt = get(b"x-request-id"), get(b"x-shipway-assigned"), get(b"x-envoy-attempt-count")
    proxy, client = get(b"x-envoy-expected-rq-timeout-ms"), get(b"grpc-timeout")
    return Request(  # most requests have few of these
        kind,
        get(b"content-type", b"").decode("latin-1"),
        encoding.decode("latin-1").lower() if encoding else "",
        length.decode("latin-1") if length else "",
        body,
        accept.decode("latin-1") if accept else "",
        request_id.decode("latin-1") if request_id else "",
        assigned.decode("latin-1") if assigned else "",
        _mirrored(get(b"host", b"")),
        _attempt(attempt.decode("latin-1")) if attempt else 1,
        _expected(proxy, client) if proxy or client else None,
    )


def head_of(found: Answer, *, close: bool) -> list[tuple[bytes, bytes]]:
    """Every header of an answer over HTTP."""
    data, content_type, header_length = found.body
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", b"%d" % len(data)),
        *found.server,
        *found.headers,
    ]
    if header_length:
        headers.append((b"inference-header-content-length", b"%d" % header_length))
    if close:
        headers.append((b"connection", b"close"))
    return headers


def declared_length(headers: Mapping[bytes, bytes]) -> int:
    """The body's length in bytes as the head says it; -1 where it says none, or no number."""
    found = headers.get(b"content-length", b"")
    return int(found) if found.isdigit() else -1


def continues(headers: Mapping[bytes, bytes]) -> bool:
    """Whether the client waits to be told that it may send the body."""
    found = headers.get(b"expect")
    return found is not None and found.lower() == b"100-continue"


def is_length(text: str) -> bool:
    """Whether *text* is a whole number below a thousand million."""
    return text.isascii() and text.isdigit() and len(text) < 10


def _mirrored(authority: bytes) -> bool:
    """Envoy ends the host of a mirrored copy with ``-shadow``, before the port."""
    if b"-shadow" not in authority:
        return False
    host, _, port = authority.rpartition(b":")
    return (host if host and port.isdigit() else authority).endswith(b"-shadow")


def _attempt(text: str) -> int:
    return int(text) if is_length(text) else 1


def _expected(proxy: bytes | None, client: bytes | None) -> float | None:
    """The time that a proxy or a gRPC client still waits, in seconds: the shorter of the two."""
    times = []
    if proxy and is_length(text := proxy.decode("latin-1")):
        times.append(int(text) / 1000)
    if client and (asked := timeout_seconds(client.decode("latin-1"))) is not None:
        times.append(asked)
    return min(times, default=None)
