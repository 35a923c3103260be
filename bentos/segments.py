"""The prediction log: records, the writer inside a server, and the reader outside it.

A segment is a file ``<start ns>-<pid>-<seq>``: ``.open`` while a server appends to it (and holds a lock on it), ``.seg``
once it is closed. It starts with eight bytes of magic; then frame follows frame::

    length u32 | crc32 u32 | payload          (little endian; the crc is of the payload)

A payload is one answered request, or the count of records that could not be written. A frame whose length or crc does
not fit is a torn tail: a server died while writing it, and reading stops before it. At most ``flush_seconds`` of records
are lost to a kill -9; nothing is synced to disk, so a machine that loses power may lose more.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

MAGIC = b"SHPSEG01"
KINDS = ("invocations", "v2")
DROPPED = 255  # the kind byte of a frame that only counts lost records
_FRAME = struct.Struct("<II")
_FIXED = struct.Struct("<BBHHqqIIHHHHHII")
_LOST = struct.Struct("<BQ")
_MIRRORED, _REQUEST_CUT, _RESPONSE_CUT = 1, 2, 4
_LONGEST_TEXT = 1024
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
    kind: str  # "invocations" or "v2"
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
    request_id, assigned = _text(record.request_id), _text(record.assigned)
    version, content_type, response_type = (
        _text(record.version),
        _text(record.content_type),
        _text(record.response_content_type),
    )
    request, response = record.request, record.response
    flags = _MIRRORED if record.mirrored else 0
    if record.request_truncated or len(request) > max_body:
        flags |= _REQUEST_CUT
        request = request[:max_body]
    if record.response_truncated or len(response) > max_body:
        flags |= _RESPONSE_CUT
        response = response[:max_body]
    fixed = _FIXED.pack(
        1 if record.kind == "v2" else 0,
        flags,
        record.status,
        min(record.attempt, 0xFFFF),
        record.time_ns,
        record.latency_ns,
        record.request_header_length,
        record.response_header_length,
        len(request_id),
        len(assigned),
        len(version),
        len(content_type),
        len(response_type),
        len(request),
        len(response),
    )
    payload = b"".join((fixed, request_id, assigned, version, content_type, response_type, request, response))
    return _FRAME.pack(len(payload), crc32(payload)) + payload


def _text(value: str) -> bytes:
    return value[:_LONGEST_TEXT].encode("utf-8", "replace")


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
    return [
        path.rename(path.with_suffix(".seg")) for path in folder.glob("*.open") if abandoned(path) and path.exists()
    ]


class SegmentWriter:
    """Appends records to segments in *folder* and never makes the caller wait.

    ``append`` copies into a buffer; a thread writes the buffer out every *flush_seconds*, or sooner when much is
    waiting. Where nothing can be written (disk full, folder read-only) or more than *max_buffer* bytes wait, records are
    counted in ``dropped``, and the next segment that can be written says how many. *sample* (0 to 1) keeps that share of
    requests, chosen by request id, so that both arms keep the same ones.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rotate_bytes: int = 16 << 20,
        rotate_seconds: float = 60.0,
        flush_seconds: float = 0.5,
        sample: float = 1.0,
        max_buffer: int = 32 << 20,
        max_body: int = 1 << 20,
    ) -> None:
        self.folder = folder
        self.dropped = 0  # records lost so far
        self.written = 0  # records handed to the operating system so far
        self.error = ""  # why the last write failed; "" after one that succeeded
        self._rotate_bytes, self._rotate_seconds, self._flush_seconds = rotate_bytes, rotate_seconds, flush_seconds
        self._max_buffer, self._max_body = max_buffer, max_body
        self._keep = round(min(max(sample, 0.0), 1.0) * 2**32)
        self._buffer, self._waiting = bytearray(), 0
        self._lock, self._wake, self._stop = threading.Lock(), threading.Event(), False
        self._file: int | None = None
        self._path = folder
        self._size, self._opened, self._sequence, self._untold = 0, 0.0, 0, 0
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            close_leftovers(folder)
        except OSError as error:
            self.error = f"{folder}: {error}"
        self._thread = threading.Thread(target=self._run, name="segment-writer", daemon=True)
        self._thread.start()

    def append(self, record: Record) -> None:
        """Takes *record* over; 2 to 4 µs for a small request. Never blocks on the disk, never raises for it."""
        if crc32(record.request_id.encode("utf-8", "replace")) >= self._keep:
            return
        frame = pack(record, self._max_body)
        with self._lock:
            if len(self._buffer) + len(frame) > self._max_buffer:
                self.dropped += 1
                self._untold += 1
                return
            self._buffer += frame
            self._waiting += 1
            if len(self._buffer) > self._max_buffer // 4:
                self._wake.set()

    def flush(self) -> None:
        """Writes what waits, in the caller's thread."""
        with self._lock:
            data, self._buffer = self._buffer, bytearray()
            count, self._waiting = self._waiting, 0
            untold, self._untold = self._untold, 0
        if not data and not untold:
            return
        try:
            self._write((_lost(untold) if untold else b"") + data)
            self.written += count
            self.error = ""
        except OSError as error:
            self.error = f"{self.folder}: {error}"
            with self._lock:
                self.dropped += count
                self._untold += untold + count

    def close(self) -> None:
        """Flushes, closes the segment and ends the thread. A second call does nothing."""
        if self._stop:
            return
        self._stop = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop:
            self._wake.wait(self._flush_seconds)
            self._wake.clear()
            self.flush()
            if self._file is not None and (
                self._size >= self._rotate_bytes or time.monotonic() - self._opened >= self._rotate_seconds
            ):
                self._close_file()
        self.flush()
        self._close_file()

    def _write(self, data: bytes) -> None:
        if self._file is None:
            self._open_file()
        assert self._file is not None
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            self._cut()
            raise
        self._size += len(data)

    def _cut(self) -> None:
        """Takes a half-written flush away again, so that what is written later stays readable."""
        assert self._file is not None
        try:
            os.ftruncate(self._file, self._size)
            os.lseek(self._file, self._size, os.SEEK_SET)
        except OSError:  # this file ends with a torn tail; the next flush begins another
            self._close_file()

    def _open_file(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._sequence += 1
        path = self.folder / f"{time.time_ns()}-{os.getpid()}-{self._sequence}.open"
        hidden = path.with_suffix(".new")  # nobody may take it for a dead server's before it is locked
        file = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.write(file, MAGIC)
            hidden.rename(path)
        except OSError:
            os.close(file)
            hidden.unlink(missing_ok=True)
            raise
        self._file, self._path, self._size, self._opened = file, path, len(MAGIC), time.monotonic()

    def _close_file(self) -> None:
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            self._path.rename(self._path.with_suffix(".seg"))
        except OSError as error:  # the reader finds it as .open all the same
            self.error = f"{self._path}: {error}"
        finally:
            os.close(file)


def _lost(count: int) -> bytes:
    payload = _LOST.pack(DROPPED, count)
    return _FRAME.pack(len(payload), crc32(payload)) + payload
