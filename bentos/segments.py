"""The prediction log: records, the frames that hold them, and the reader; the writer is bentos.segment_writer.

A segment is a file ``<start ns>-<pid>-<seq>``: ``.open`` while a server appends to it (and holds a lock on it), ``.seg``
once it is closed. It starts with eight bytes of magic; then frame follows frame::

    length u32 | crc32 u32 | payload          (little endian; the crc is of the payload)

A payload is one answered request, or the count of records that could not be written. A frame whose length or crc does
not fit is a torn tail: a server died while writing it, and reading stops before it. At most ``flush_seconds`` of records
are lost to a kill -9; nothing is synced to disk, so a machine that loses power may lose more.
"""

from __future__ import annotations

import fcntl
import struct
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

MAGIC = b"SHPSEG01"
KINDS = ("invocations", "v2", "grpc")
_KIND_BYTES = {kind: byte for byte, kind in enumerate(KINDS)}
DROPPED = 255  # the kind byte of a frame that only counts lost records
_FRAME = struct.Struct("<II")
_FIXED = struct.Struct("<BBHHqqIIHHHHHII")
_LOST = struct.Struct("<BQ")
_MIRRORED, _REQUEST_CUT, _RESPONSE_CUT = 1, 2, 4
_LONGEST_TEXT = 1024
_LARGEST_FRAME = 1 << 30
_ALL = 1 << 32  # as many crcs as there are


class Record(NamedTuple):
    """One answered prediction request, as the server that answered it saw it."""

    request_id: str
    time_ns: int  # unix time at which the request arrived
    assigned: str  # "baseline/3" or "candidate/4" as the gateway assigned it; "" without a gateway
    mirrored: bool
    attempt: int  # 1 for the first try, as the gateway counted
    version: str  # the version that answered
    status: int
    latency_ns: int
    kind: str  # one of KINDS
    content_type: str
    request_header_length: int  # V2 binary tensors: bytes of JSON before them; 0: none
    response_content_type: str
    response_header_length: int
    request: bytes
    response: bytes
    request_truncated: bool = False
    response_truncated: bool = False


class Scan(NamedTuple):
    """What was read from one segment: whole records, how many its server had to drop, and where to go on."""

    records: list[Record]
    dropped: int
    offset: int


def pack(record: Record, max_body: int) -> bytes:
    """One frame. Bodies longer than *max_body* bytes are cut and marked so; texts are cut at 1024 characters."""
    (
        identifier,
        time_ns,
        assigned,
        mirrored,
        attempt,
        version,
        status,
        latency_ns,
        kind,
        content_type,
        request_header,
        response_type,
        response_header,
        request,
        response,
        request_cut,
        response_cut,
    ) = record  # at once: seventeen attributes would cost as much as the rest of this
    request_id = identifier[:_LONGEST_TEXT].encode("utf-8", "replace")
    texts, first, second, third, fourth = _texts(assigned, version, content_type, response_type)
    flags = _MIRRORED if mirrored else 0
    if request_cut or len(request) > max_body:
        flags |= _REQUEST_CUT
        request = request[:max_body]
    if response_cut or len(response) > max_body:
        flags |= _RESPONSE_CUT
        response = response[:max_body]
    fixed = _FIXED.pack(
        _KIND_BYTES[kind],
        flags,
        status,
        attempt if attempt < 0xFFFF else 0xFFFF,
        time_ns,
        latency_ns,
        request_header,
        response_header,
        len(request_id),
        first,
        second,
        third,
        fourth,
        len(request),
        len(response),
    )
    payload = b"".join((fixed, request_id, texts, request, response))
    return _FRAME.pack(len(payload), crc32(payload)) + payload


def _text(value: str) -> bytes:
    return value[:_LONGEST_TEXT].encode("utf-8", "replace")


@lru_cache(maxsize=64)
def _texts(*values: str) -> tuple[bytes, int, int, int, int]:
    """Four texts that most requests share, one after the other, and the length of each in bytes."""
    first, second, third, fourth = map(_text, values)
    return b"".join((first, second, third, fourth)), len(first), len(second), len(third), len(fourth)


def _unpack(payload: memoryview) -> Record:
    kind, flags, status, attempt, time_ns, latency_ns, request_header, response_header, *lengths = _FIXED.unpack_from(
        payload
    )
    at, parts = _FIXED.size, []
    for length in lengths:
        parts.append(bytes(payload[at : at + length]))
        at += length
    request_id, assigned, version, content_type, response_type = (part.decode("utf-8", "replace") for part in parts[:5])
    return Record(
        request_id,
        time_ns,
        assigned,
        bool(flags & _MIRRORED),
        attempt,
        version,
        status,
        latency_ns,
        KINDS[kind],
        content_type,
        request_header,
        response_type,
        response_header,
        parts[5],
        parts[6],
        bool(flags & _REQUEST_CUT),
        bool(flags & _RESPONSE_CUT),
    )


def segments(folder: Path) -> list[Path]:
    """Every segment of *folder*, open and closed, in the order of their start; none where there is no folder.

    A segment is known by its ``stem``: its suffix changes when it is closed.
    """
    found = [path for suffix in ("*.open", "*.seg") for path in folder.glob(suffix)]
    return sorted({path.stem: path for path in found}.values(), key=lambda path: _order(path.stem))


def _order(stem: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in stem.split("-"))


def read_segment(path: Path, offset: int = 0) -> tuple[list[Record], int]:
    """The whole records of the segment at *path* from byte *offset* on, and the offset to go on from.

    Stops before a torn or unfinished tail. A segment closed meanwhile (``.open`` became ``.seg``) is found under its new
    name. Raises FileNotFoundError where neither is there.
    """
    scan = scan_segment(path, offset)
    return scan.records, scan.offset


def scan_segment(path: Path, offset: int = 0) -> Scan:
    """As ``read_segment``, with the number of records its server said it dropped."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        if path.suffix != ".open":
            raise
        file = path.with_suffix(".seg").open("rb")
    with file:
        file.seek(offset)
        data = memoryview(file.read())
    at = 0
    if offset == 0:
        if data[: len(MAGIC)] != MAGIC:
            return Scan([], 0, 0)
        at = len(MAGIC)
    records, dropped = [], 0
    while at + _FRAME.size <= len(data):
        length, crc = _FRAME.unpack_from(data, at)
        end = at + _FRAME.size + length
        payload = data[at + _FRAME.size : end]
        if length == 0 or length > _LARGEST_FRAME or end > len(data) or crc32(payload) != crc:
            break
        if payload[0] == DROPPED:
            dropped += _LOST.unpack(payload)[1]
        else:
            records.append(_unpack(payload))
        at = end
    return Scan(records, dropped, offset + at)


def abandoned(path: Path) -> bool:
    """Whether no living server appends to *path*: it is closed, or the lock its writer held is free."""
    if path.suffix != ".open":
        return True
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        pass
    return True


def close_leftovers(folder: Path) -> list[Path]:
    """Renames what dead servers left open in *folder* to ``.seg``; returns the new paths."""
    closed = []
    for path in folder.glob("*.open"):
        if abandoned(path):
            with suppress(FileNotFoundError):  # another server of the version did it just now
                closed.append(path.rename(path.with_suffix(".seg")))
    return closed


def lost(count: int) -> bytes:
    """A frame that says how many records could not be written."""
    payload = _LOST.pack(DROPPED, count)
    return _FRAME.pack(len(payload), crc32(payload)) + payload
