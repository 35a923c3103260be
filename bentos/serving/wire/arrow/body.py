"""The body of an Arrow message: its buffers, checked, decompressed where they are compressed, and shared out to fields."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from bentos.serving.wire.arrow.flatbuffer import Table
from bentos.serving.wire.arrow.schema import Field
from bentos.serving.wire.interface import WireError

CODECS = ("lz4", "zstd")
_FLOOR = 1 << 20
_GROWTH = 32


class Budget:
    """What a stream may grow to in memory: a few bytes can stand for millions of nulls or empty rows.

    A JSON body grows as much: 32 bytes of Python objects a byte of the stream.
    """

    def __init__(self, body: int, largest: int) -> None:
        self._objects = _FLOOR + _GROWTH * body
        self._inflated = largest

    def objects(self, count: int, size: int) -> None:
        """Takes *count* objects of about *size* bytes. Raises WireError."""
        self._objects -= count * size
        if self._objects < 0:
            raise WireError(
                "Arrow stream: found values that take far more memory than the body; send fewer rows at once"
            )

    def inflate(self, size: int) -> None:
        """Takes *size* decompressed bytes. Raises WireError."""
        self._inflated -= size
        if self._inflated < 0:
            raise WireError("Arrow stream: its buffers are too large once decompressed; send fewer rows at once")


class Batch(NamedTuple):
    """A record batch's metadata: rows, (rows, nulls) a field, (offset, length) a buffer; "" or the codec of the buffers."""

    rows: int
    nodes: list[tuple[int, ...]]
    buffers: list[tuple[int, ...]]
    variadic: list[tuple[int, ...]]
    codec: str

    @staticmethod
    def parse(table: Table) -> Batch:
        """The batch of a RecordBatch table. Raises ValueError."""
        compression = table.table(3)
        codec = "" if compression is None else CODECS[compression.number(0, "b") & 1]
        rows = table.number(0, "q")
        if rows < 0:
            raise ValueError(f"a batch of {rows} rows")
        return Batch(rows, table.longs(1, 2), table.longs(2, 2), table.longs(4), codec)


class Part(NamedTuple):
    """What a batch holds of one field."""

    field: Field
    rows: int
    nulls: int
    buffers: list[memoryview]
    children: list[Part]

    def valid(self) -> np.ndarray | None:
        """Which rows are not null [rows], None where all are. Raises ValueError."""
        if not self.nulls:
            return None
        bits = bits_of(self.buffers[0], self.rows)
        return None if bits.all() else bits


class Body:
    """A message's body with its batch, from which each field takes its part in turn."""

    def __init__(self, batch: Batch, data: memoryview, budget: Budget) -> None:
        self.rows = batch.rows
        self._batch = batch
        self._data = data
        self._budget = budget
        self._most = 8 * len(data) if not batch.codec else 1 << 40
        self._nodes = iter(batch.nodes)
        self._buffers = iter(batch.buffers)
        self._variadic = iter(batch.variadic)

    def take(self, field: Field, wanted: bool = True) -> Part | None:
        """The next field's part; None, with nothing read, where it is not *wanted*. Raises WireError and ValueError."""
        rows, nulls = _next(self._nodes, "nodes")
        if rows < 0 or (wanted and rows > self._most and field.kind not in ("null", "struct", "fixed_size_list")):
            raise ValueError(f"{rows} rows of field {field.name[:80]!r} in {len(self._data)} bytes")
        encoded = field.encoded is not None
        count = 2 if encoded else field.buffers
        if field.kind in ("binary_view", "utf8_view") and not encoded:
            count += _next(self._variadic, "counts of views")[0]
        if not 0 <= count <= len(self._batch.buffers):
            raise ValueError(f"{count} buffers of field {field.name[:80]!r}")
        places = [_next(self._buffers, "buffers") for _ in range(count)]
        buffers = [self._buffer(*place) for place in places] if wanted else []
        children = [self.take(child, wanted) for child in (() if encoded else field.children)]
        return Part(field, rows, nulls, buffers, [c for c in children if c is not None]) if wanted else None

    def _buffer(self, offset: int, length: int) -> memoryview:
        if offset < 0 or length < 0 or offset + length > len(self._data):
            raise ValueError(f"a buffer of {length} bytes at {offset} of {len(self._data)}")
        data = self._data[offset : offset + length]
        if not self._batch.codec or not length:
            return data
        if length < 8:
            raise ValueError(f"a compressed buffer of {length} bytes")
        size = struct.unpack_from("<q", data)[0]
        if size == -1:
            return data[8:]  # it did not become smaller, and was left as it is
        if size < 0:
            raise ValueError(f"a compressed buffer of {size} bytes")
        self._budget.inflate(size)
        return _inflated(data[8:], size, self._batch.codec)


def bits_of(data: memoryview, count: int) -> np.ndarray:
    """Booleans [count] from bits, the lowest first. Raises ValueError."""
    size = (count + 7) // 8
    return np.unpackbits(numbers_of(data, np.dtype("u1"), size), count=count, bitorder="little").view(bool)


def numbers_of(data: memoryview, dtype: np.dtype[Any], count: int) -> np.ndarray:
    """Numbers [count], read only. Raises ValueError."""
    if count * dtype.itemsize > len(data):
        raise ValueError(f"{len(data)} bytes for {count} values of {dtype.itemsize} bytes")
    return np.frombuffer(data, dtype, count)


def _inflated(data: memoryview, size: int, codec: str) -> memoryview:
    try:
        import cramjam
    except ImportError:
        raise WireError(
            f"Arrow stream: found buffers compressed with {codec}, which this server does not read (it has no cramjam). "
            "Send them uncompressed, the whole body with gzip as its content-encoding"
        ) from None
    out = np.empty(size, dtype=np.uint8)
    module = cramjam.lz4 if codec == "lz4" else cramjam.zstd
    try:
        found = module.decompress_into(np.frombuffer(data, np.uint8), out)
    except (cramjam.DecompressionError, OSError, ValueError) as error:
        raise ValueError(f"a buffer that is not {codec}: {error}") from None
    if found != size:
        raise ValueError(f"a {codec} buffer of {found} bytes, {size} said")
    return out.data


def _next(items: Iterator[tuple[int, ...]], what: str) -> tuple[int, ...]:
    found = next(items, None)
    if found is None:
        raise ValueError(f"fewer {what} than its fields need")
    return found
