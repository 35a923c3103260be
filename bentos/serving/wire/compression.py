"""Compressed request bodies: gzip and deflate, as MLflow's server and Triton take them, never larger than allowed."""

from __future__ import annotations

import zlib

from bentos.serving.wire.interface import MediaTypeError, TooLargeError, WireError

CODINGS = ("gzip", "deflate")
_GZIP, _ZLIB, _RAW = 31, 15, -15
_MOST = 4
_MEMBERS = 10_000
_PIECE = 64 << 10  # bytes at a time, for what lies behind a member is copied


def decompress(body: bytes, encoding: str, largest: int) -> bytes:
    """*body* without its content-encoding; several, as in ``gzip, gzip``, are undone from the last.

    *largest* in bytes holds for every decompressed body and is enforced on the way. Raises MediaTypeError for another
    coding, TooLargeError, and WireError for a body that is torn, longer than its end, or no such thing.
    """
    codings = [coding.strip().lower() for coding in encoding.split(",")]
    codings = [coding for coding in codings if coding not in ("", "identity")]
    for coding in codings:
        if coding.removeprefix("x-") not in CODINGS:
            raise MediaTypeError(f"content-encoding: expected gzip, deflate or none, found {coding[:40]!r}")
    if len(codings) > _MOST:
        raise MediaTypeError(f"content-encoding: expected at most {_MOST} codings, found {len(codings)}")
    for coding in reversed(codings):
        body = _gunzip(body, largest) if coding.endswith("gzip") else _inflate(body, largest)
    return body


def _gunzip(body: bytes, largest: int) -> bytes:
    """The members of a gzip body (RFC 1952), one after another."""
    parts, at, left = list[bytes](), 0, largest
    for _ in range(_MEMBERS):
        part, at = _stream(body, at, _GZIP, left, largest, "gzip")
        parts.append(part)
        left -= len(part)
        if at == len(body):
            return parts[0] if len(parts) == 1 else b"".join(parts)
    raise WireError(f"body: expected gzip of at most {_MEMBERS} members, found more")


def _inflate(body: bytes, largest: int) -> bytes:
    """A deflate body: zlib (RFC 1950), or raw deflate, which many clients send by that name."""
    zlibbed = len(body) >= 2 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    found, at = _stream(body, 0, _ZLIB if zlibbed else _RAW, largest, largest, "deflate")
    if at != len(body):
        raise WireError(f"body: expected nothing behind the deflate data, found {len(body) - at} bytes")
    return found


def _stream(body: bytes, at: int, window: int, left: int, largest: int, coding: str) -> tuple[bytes, int]:
    """One compressed stream that begins at a byte, of at most *left* bytes, and where it ends."""
    stream, view, parts = zlib.decompressobj(window), memoryview(body), list[bytes]()
    while not stream.eof:
        piece = view[at : at + _PIECE]
        if not piece:
            raise WireError(f"body: expected a whole {coding} stream, found one that ends after {len(body)} bytes")
        try:
            found = stream.decompress(piece, left + 1)
        except zlib.error as error:
            raise WireError(f"body: expected {coding} as the content-encoding says, found {error}") from None
        if len(found) > left:
            raise TooLargeError(
                f"expected a body of at most {largest} bytes once decompressed; send fewer rows at once"
            )
        parts.append(found)
        left -= len(found)
        at += len(piece) - len(stream.unused_data)
    return parts[0] if len(parts) == 1 else b"".join(parts), at
