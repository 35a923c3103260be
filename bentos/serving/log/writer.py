"""SegmentWriter: the prediction log inside a server. Its format is that of bentos.serving.log.segments."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

from bentos.serving.cells import Cells
from bentos.serving.files import private_folder
from bentos.serving.log.segments import MAGIC, Record, block, close_leftovers, whole

HELD, HELD_BYTES = 64, 128 << 10
"""Records, and bytes of bodies, of one block."""

SOON = 256 << 10
"""Bytes that wait before they are written at once. A write of 2 MB holds up a server of one core for 2 ms; one of much less
than this costs more in changes of thread than in writing."""

_ALL = 1 << 32  # as many crcs as there are
T = TypeVar("T")


class SegmentWriter:
    """Appends records to segments in *folder* and never makes the caller wait.

    ``defer`` holds a few records and then packs them into a buffer; a thread writes the buffer out every *flush_seconds*,
    or sooner when much is waiting. Where nothing can be written (disk full, folder read-only) or more than *max_buffer*
    bytes wait, records are counted in ``dropped``, and the next segment that can be written says how many; those of a
    segment that somebody removed while it was written, too.
    *sample* (0 to 1) keeps that share of requests, chosen by request id, so that both arms keep the same ones.
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
        self._counts: Cells = [0, 0]  # written, dropped
        self.error = ""  # why the last write failed; "" after one that succeeded
        self._rotate_bytes, self._rotate_seconds, self._flush_seconds = rotate_bytes, rotate_seconds, flush_seconds
        self._max_buffer, self._max_body = max_buffer, max_body
        self._soon = min(SOON, max_buffer // 4)
        self._keep = round(min(max(sample, 0.0), 1.0) * _ALL)
        self._held: deque[tuple[Callable[[Any], Record], Any]] = deque()
        self._held_bytes = 0
        self._most_held_bytes = min(HELD_BYTES, max_buffer // 4)
        self._buffer, self._waiting = bytearray(), 0
        self._lock, self._wake, self._stop = threading.Lock(), threading.Event(), False
        self._file: int | None = None
        self._path = folder
        self._size, self._opened, self._sequence, self._untold = 0, 0.0, 0, 0
        self._in_segment = 0  # records in the file at hand
        try:
            private_folder(folder)
            close_leftovers(folder)
        except OSError as error:
            self.error = f"{folder}: {error}"
        self._thread = threading.Thread(target=self._run, name="segment-writer", daemon=True)
        self._thread.start()

    @property
    def written(self) -> int:
        """Records handed to the operating system so far."""
        return self._counts[0]

    @property
    def dropped(self) -> int:
        """Records lost so far."""
        return self._counts[1]

    def count_in(self, counts: Cells) -> None:
        """Goes on counting in two cells of somebody else's, before the first record."""
        self._counts = counts

    def defer(self, record_of: Callable[[T], Record], seen: T, size: int) -> None:
        """Takes the record ``record_of(seen)`` over, made within *flush_seconds* in this thread or the writer's.

        Never blocks on the disk, never raises for it. By one thread at a time. A block of them is made and packed in a row,
        which costs less than each between other work. *size* is that of its bodies, in bytes.
        """
        self._held.append((record_of, seen))
        self._held_bytes += size
        if len(self._held) < HELD and self._held_bytes < self._most_held_bytes:
            return
        with self._lock:
            self._pack()
            much = len(self._buffer) > self._soon
        if much and not self._wake.is_set():
            self._wake.set()

    def _pack(self) -> None:
        """Moves what is held into the buffer, as far as there is room. The caller has the lock; more may be held meanwhile."""
        held, keep = self._held, self._keep
        self._held_bytes = 0
        records = []
        for _ in range(len(held)):
            record_of, seen = held.popleft()
            record = record_of(seen)
            if keep == _ALL or crc32(record.request_id.encode("utf-8", "replace")) < keep:
                records.append(record)
        if not records:
            return
        frame = block(records, self._max_body)
        if len(self._buffer) + len(frame) > self._max_buffer:
            self._counts[1] += len(records)
            self._untold += len(records)
        else:
            self._buffer += frame
            self._waiting += len(records)

    def flush(self, *, held: bool = True) -> None:
        """Writes what waits, in the caller's thread; without what is *held* if so said."""
        self._leave_removed()
        with self._lock:
            if held:
                self._pack()
            data, self._buffer = self._buffer, bytearray()
            count, self._waiting = self._waiting, 0
            untold, self._untold = self._untold, 0
        if not data and not untold:
            return
        told = block((), 0, untold) if untold else b""
        try:
            if self._file is None:
                self._open_file()
            # what is told goes in front, without a copy of what waits: it may be megabytes, and a copy stops the event loop
            done = self._write(told + data if untold else data)
        except OSError as error:
            self.error = f"{self.folder}: {error}"
            done = 0
        else:
            if done == len(told) + len(data):
                self.error = ""
        lost = count
        if done > len(told):
            lost = whole(memoryview(data)[done - len(told) :])[1]
        self._counts[0] += count - lost
        self._in_segment += count - lost
        self._lose(lost, untold if done < len(told) else 0)

    def _lose(self, lost: int, untold: int = 0) -> None:
        """Counts *lost* records; the next segment tells of them, and of *untold* ones that were counted before."""
        with self._lock:
            self._counts[1] += lost
            self._untold += lost + untold

    def close(self) -> None:
        """Flushes, closes the segment and ends the thread. A second call does nothing."""
        if self._stop:
            return
        self._stop = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop:
            much = self._wake.wait(self._flush_seconds)
            self._wake.clear()
            self.flush(
                held=not much
            )  # packing here keeps the interpreter from the event loop, which soon packs by itself
            if self._file is not None and (
                self._size >= self._rotate_bytes or time.monotonic() - self._opened >= self._rotate_seconds
            ):
                self._close_file()
        self.flush()
        self._close_file()

    def _leave_removed(self) -> None:
        """Another segment is begun where somebody removed the one at hand, and its records are lost."""
        if self._file is not None and os.fstat(self._file).st_nlink == 0:
            os.close(self._file)
            self._file = None
            self._lose(self._in_segment)

    def _write(self, data: bytes | bytearray) -> int:
        """Appends *data*; how many bytes of it the segment has then: all, or the whole frames that there was room for."""
        assert self._file is not None
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            self.error = f"{self.folder}: {error}"
        done = len(data)
        if rest:
            done, _ = whole(memoryview(data)[: len(data) - len(rest)])  # a reader may have these
        self._size += done
        if rest:
            self._cut()
        return done

    def _cut(self) -> None:
        """Takes a half-written frame away again, so that what is written later stays readable."""
        assert self._file is not None
        try:
            os.ftruncate(self._file, self._size)
            os.lseek(self._file, self._size, os.SEEK_SET)
        except OSError:  # this file ends with a torn tail; the next flush begins another
            self._close_file()

    def _open_file(self) -> None:
        private_folder(self.folder)
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
        self._in_segment = 0

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
