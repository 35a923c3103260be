"""ParquetJoin: Parquet files of one schema put behind one another as they are, without decoding a page.

Footer and offsets: https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from bentos.serving.batch.thrift import I32, I64, Struct, read_struct, write_struct

MAGIC = b"PAR1"
PIECE = 8 << 20  # bytes copied at a time
# fields of FileMetaData, RowGroup, ColumnChunk and ColumnMetaData
SCHEMA, NUM_ROWS, ROW_GROUPS, FACTS = 2, 3, 4, 5
COLUMNS, GROUP_OFFSET, ORDINAL = 1, 5, 7
CHUNK_OFFSET, CHUNK_META = 2, 3
CHUNK_OFFSETS = (2, 4, 6)  # the chunk, its offset index, its column index
META_OFFSETS = (9, 10, 11, 14)  # data pages, index page, dictionary page, bloom filter


class ParquetJoin:
    """The file that parts are appended to; ``close`` writes its footer."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")
        self._file.write(MAGIC)
        self._footer: Struct | None = None

    def append(self, part: Path) -> bool:
        """Put the row groups of ``part`` behind those that are there; False, and nothing done, if its schema is another
        than the first part's. Raises ValueError if it is no Parquet file.
        """
        with part.open("rb") as file:
            footer, size = read_footer(file)
            first = self._footer
            if first is not None and any(first.get(field) != footer.get(field) for field in (SCHEMA, FACTS)):
                return False
            by = self._file.tell() - len(MAGIC)
            for group in footer[ROW_GROUPS][1][1]:
                _move(group, by)
            file.seek(len(MAGIC))
            left = size - len(MAGIC)
            while piece := file.read(min(left, PIECE)):
                left -= self._file.write(piece)
        if first is None:
            self._footer = footer
            return True
        first[NUM_ROWS] = (I64, first[NUM_ROWS][1] + footer[NUM_ROWS][1])
        first[ROW_GROUPS][1][1].extend(footer[ROW_GROUPS][1][1])
        return True

    def close(self) -> None:
        """Write the footer, if a part was appended, and close the file."""
        if self._file.closed:
            return
        if self._footer is not None:
            text = write_struct(self._footer)
            self._file.write(text + len(text).to_bytes(4, "little") + MAGIC)
        self._file.close()


def read_footer(file: BinaryIO) -> tuple[Struct, int]:
    """A Parquet file's FileMetaData, and where it begins. Raises ValueError if it is none."""
    end = file.seek(0, 2)
    file.seek(max(end - 8, 0))
    tail = file.read(8)
    size = int.from_bytes(tail[:4], "little")
    if tail[4:] != MAGIC or size + 12 > end:
        raise ValueError(f"{file.name} ends with {tail!r}: expected a Parquet file")
    file.seek(end - 8 - size)
    return read_struct(file.read(size))[0], end - 8 - size


def _move(group: Struct, by: int) -> None:
    """Say that a row group lies ``by`` bytes further on."""
    group.pop(ORDINAL, None)
    _shift(group, (GROUP_OFFSET,), by)
    for chunk in group[COLUMNS][1][1]:
        _shift(chunk, CHUNK_OFFSETS, by)
        if CHUNK_META in chunk:
            _shift(chunk[CHUNK_META][1], META_OFFSETS, by)


def _shift(struct: Struct, fields: tuple[int, ...], by: int) -> None:
    for field in fields:
        kind, value = struct.get(field, (I32, 0))
        if value:
            struct[field] = (kind, value + by)
