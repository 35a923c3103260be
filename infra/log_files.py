"""Files that another process appends its output to: opened whatever the disk says, and bounded while it writes. Standard
library only: the keeper loads it by itself."""

from __future__ import annotations

import os
from contextlib import suppress
from io import FileIO
from pathlib import Path

CHUNK = 1 << 20


def open_log(path: Path, first: str = "") -> FileIO:
    """*path* for appending, with its folder, the line *first* written; the null device where the disk takes neither.

    Whoever gets it as its output writes where the file ends, also after ``bound`` emptied it. Only its owner reads it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        log = FileIO(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "a+")
    except OSError:
        return FileIO(os.devnull, "a+")
    try:
        line = f"{first}\n".encode() if first else b""
        if log.write(line) == len(line):
            return log
    except OSError:
        pass
    log.close()
    return FileIO(os.devnull, "a+")


def bound(log: FileIO, path: Path, most: int) -> None:
    """Empties *log* once it is longer than *most* bytes; the last *most*, and at most as much again of what is written
    meanwhile, go to ``<path>.1``, in place of what was there.

    *log* is what ``open_log`` gave for *path*, so that a file that was removed meanwhile is bounded too. Where the copy
    cannot be written, the disk is full or gone, and the bytes are given up. A line written during the copy may be lost.
    """
    size = os.fstat(log.fileno()).st_size
    if size <= most:
        return
    kept = path.with_name(f"{path.name}.1")
    try:
        _copy(log, size - most, size + most, kept)
    except OSError:
        with suppress(OSError):
            kept.unlink()
    os.ftruncate(log.fileno(), 0)


def _copy(log: FileIO, start: int, end: int, kept: Path) -> None:
    with FileIO(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as copy:
        while part := os.pread(log.fileno(), min(CHUNK, end - start), start):
            start += len(part)
            rest = memoryview(part)
            while rest:
                rest = rest[copy.write(rest) or 0 :]
