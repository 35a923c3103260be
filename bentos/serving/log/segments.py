"""The prediction log: records, the frames that hold them, and the reader; the writer is bentos.serving.log.writer.

A segment is a file ``<start ns>-<pid>-<seq>``: ``.open`` while a server appends to it (and holds a lock on it), ``.seg``
once it is closed. It starts with eight bytes of magic; then frame follows frame::

    length u32 | crc32 u32 | payload          (little endian; the crc is of the payload)

A payload is msgpack: the records of some answered requests, each an array in the order of Record, and the count of records
that could not be written. A frame whose length or crc does not fit is a torn tail: a server died while writing it, and
reading stops before it. Where a disk is full, a server takes its half-written frame away again and never a whole one, so that
what was read once stays where it was. At most ``flush_seconds`` of records are lost to a kill -9; nothing is synced to disk, so a machine
that loses power may lose more.
"""

from __future__ import annotations

import fcntl
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import msgspec

MAGIC = b"SHPSEG02"
KINDS = ("invocations", "v2", "grpc")
_FRAME = struct.Struct("<II")
_LARGEST_FRAME = 1 << 30


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


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[list[Record], int]).decode


class Scan(NamedTuple):
    """What was read from one segment: whole records, how many its server had to drop, and where to go on."""

    records: list[Record]
    dropped: int
    offset: int


def block(records: Sequence[Record], max_body: int, lost: int = 0) -> bytes:
    """One frame of *records*, and of a count of *lost* ones. Bodies longer than *max_body* bytes are cut and marked so."""
    payload = _encode((records, lost))
    if len(payload) > max_body:  # else no body is
        payload = _encode(([_cut(record, max_body) for record in records], lost))
    return _FRAME.pack(len(payload), crc32(payload)) + payload


def _cut(record: Record, max_body: int) -> Record:
    request, response = record.request, record.response
    return record._replace(
        request=request[:max_body],
        response=response[:max_body],
        request_truncated=record.request_truncated or len(request) > max_body,
        response_truncated=record.response_truncated or len(response) > max_body,
    )


def segments(folder: Path) -> list[Path]:
    """Every segment of *folder*, open and closed, in the order of their start; none where there is no folder.

    A segment is known by its ``stem``: its suffix changes when it is closed.
    """
    found = [path for suffix in ("*.open", "*.seg") for path in folder.glob(suffix)]
    return sorted({path.stem: path for path in found}.values(), key=lambda path: _order(path.stem))


def _order(stem: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in stem.split("-"))


def _frame_at(data: memoryview, at: int) -> tuple[memoryview, int] | None:
    """The payload of the whole frame at *at* and where the next begins; None where there is none."""
    if at + _FRAME.size > len(data):
        return None
    length, crc = _FRAME.unpack_from(data, at)
    end = at + _FRAME.size + length
    payload = data[at + _FRAME.size : end]
    if length == 0 or length > _LARGEST_FRAME or end > len(data) or crc32(payload) != crc:
        return None
    return payload, end


def scan_segment(path: Path, offset: int = 0) -> Scan:
    """The whole records of the segment at *path* from byte *offset* on, and how many its server said it dropped.

    Stops before a torn or unfinished tail. A segment closed meanwhile (``.open`` became ``.seg``) is found under its new
    name. Raises FileNotFoundError where neither is there.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        if path.suffix != ".open":
            raise
        file = path.with_suffix(".seg").open("rb")
    with file:
        magic = file.read(len(MAGIC))
        file.seek(offset or len(MAGIC))
        data = memoryview(file.read())
    if magic != MAGIC:  # no segment, or not one yet
        return Scan([], 0, offset)
    at, start = 0, offset or len(MAGIC)
    records, dropped = [], 0
    while (frame := _frame_at(data, at)) is not None:
        payload, at = frame
        found, lost = _decode(payload)
        records += found
        dropped += lost
    return Scan(records, dropped, start + at)


def whole(data: memoryview) -> tuple[int, int]:
    """The length of the whole frames that *data* begins with, and how many records are in them."""
    at = records = 0
    while (frame := _frame_at(data, at)) is not None:
        payload, at = frame
        records += len(_decode(payload)[0])
    return at, records


def boundary(path: Path, offset: int) -> int:
    """Where the last frame begins that begins at or before byte *offset* of the segment at *path*; after the last whole frame
    where none does. *offset* itself, unless the file no longer has what was read of it."""
    at, data = len(MAGIC), memoryview(path.read_bytes())
    while (frame := _frame_at(data, at)) is not None and frame[1] <= offset:
        at = frame[1]
    return at


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
