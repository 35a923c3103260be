"""Follows the raw segments of one version while servers write, rotate and close them."""

from __future__ import annotations

import os
from pathlib import Path

from bentos.serving.log.segments import Record, Scan, boundary, scan_segment, segments


class SegmentTail:
    """The records of ``<folder>/*.open|*.seg`` that arrived at or after *since_ns*, each once.

    A segment is known by its stem, so that one closed or rotated meanwhile goes on where it was left. ``dropped`` counts
    what servers said they could not log, ``lost`` the segments that the retention took before they were read, ``cut`` how often
    a segment no longer had what had been read of it: reading goes on at the next record, and those between are missing.
    """

    def __init__(self, folder: Path, *, since_ns: int) -> None:
        self.dropped = 0
        self.lost = 0
        self.cut = 0
        self._folder = folder
        self._since_ns = since_ns
        self._offsets: dict[str, int] = {}
        self._sizes: dict[str, int] = {}

    def poll(self) -> list[Record]:
        """The records written since the last poll, segment by segment."""
        found: list[Record] = []
        for path in segments(self._folder):
            stem, offset = path.stem, self._offsets.get(path.stem, 0)
            try:
                stat = _stat(path)
                if stat.st_size == self._sizes.get(stem) or (offset == 0 and stat.st_mtime_ns < self._since_ns):
                    continue
                scan = self._scan(path, offset, stat.st_size)
            except FileNotFoundError:
                self.lost += 1
                continue
            self._offsets[stem], self._sizes[stem] = scan.offset, stat.st_size
            self.dropped += scan.dropped
            found += [record for record in scan.records if record.time_ns >= self._since_ns]
        return found

    def _scan(self, path: Path, offset: int, size: int) -> Scan:
        """What is new in the segment; *offset* is moved where no record begins there any more."""
        scan = scan_segment(path, offset)
        if offset == 0 or (scan.offset > offset and size >= offset):
            return scan
        begins = boundary(_there(path), offset)  # it is offset itself before a frame that is not whole yet
        if begins == offset:
            return scan
        self.cut += 1
        return scan_segment(path, begins)


def _there(path: Path) -> Path:
    return path if path.exists() else path.with_suffix(".seg")


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError:
        return path.with_suffix(".seg").stat()  # closed between listing and reading
