"""Arrow IPC streams: the record batches of a request as inputs, with nothing but numpy (answers: ``arrow_answer``).

https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc. Every bound is checked
here, in Python: a malformed body raises and cannot take the process along, as readers in C and Rust were seen to.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from bentos.serving.inputs.plan import InputPlan
from bentos.serving.inputs.rows import InputRows
from bentos.serving.wire.arrow.answer import encode
from bentos.serving.wire.arrow.body import Batch, Body, Budget
from bentos.serving.wire.arrow.flatbuffer import Table
from bentos.serving.wire.arrow.schema import MEDIA_TYPE, Field, parse_schema
from bentos.serving.wire.arrow.values import Reader, Values
from bentos.serving.wire.interface import WireError

__all__ = ["MEDIA_TYPE", "decode", "encode", "messages", "read"]

LARGEST = 64 << 20  # bytes, of all compressed buffers once they are decompressed
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3
_VERSIONS = (3, 4)  # V4 and V5
_REMEMBERED = 256
_LONGEST = 64 << 10
_MOST = 4 << 20  # bytes of metadata remembered
_PREFIX = struct.Struct("<Ii")


@dataclass(frozen=True, eq=False)
class Head:
    """A message's metadata: its kind, how long its body is, and what of the rest is its kind's."""

    kind: int
    length: int
    fields: tuple[Field, ...] = ()
    batch: Batch | None = None
    dictionary: int = 0
    more: bool = False  # values to put behind those that the dictionary has


class Layout(NamedTuple):
    """Where one batch's columns lie in its body, in the plan's order, where all are numbers of one type and none is null."""

    rows: int
    dtype: np.dtype[Any]
    offsets: tuple[int, ...]
    stride: int | None  # from one column to the next, where it is always the same
    end: int


# Clients send few schemas and row counts, and reading one in Python takes ten times as long as the rows themselves.
# Not by functools.lru_cache: the first is bounded by bytes, and with it for the second a whole read took 5.4 µs, not 4.9.
_heads: dict[bytes, Head] = {}
_layouts: dict[tuple[Head, Head, tuple[str, ...], np.dtype[Any]], Layout | None] = {}


def decode(body: bytes, plan: InputPlan, *, largest: int = LARGEST) -> InputRows:
    """The rows of a stream as *plan* wants them; columns it does not know are left out, unread.

    *largest* limits the decompressed bytes of compressed buffers. Raises WireError and InputError.
    """
    if plan.uniform is not None and (matrix := _matrix(body, plan, plan.uniform)) is not None:
        return plan.whole(matrix)
    names = {column.name for column in plan.columns}
    return plan.coerce(read(body, None if not names or "" in names else names, largest=largest))


def read(body: bytes, names: set[str] | None = None, *, largest: int = LARGEST) -> dict[str, Values]:
    """The columns called *names* (None: all) of a stream, as ``bentos.serving.batch.tables.from_arrow`` gives those of a table.

    Raises WireError.
    """
    try:
        return _read(body, names, Budget(len(body), largest))
    except (ValueError, struct.error, OverflowError, MemoryError, IndexError) as error:
        raise WireError(f"Arrow stream: expected record batches, found {str(error)[:200]}") from None


def messages(body: bytes) -> Iterator[tuple[Head, memoryview]]:
    """The messages of a stream up to its end, each with its body. Raises WireError, and ValueError for torn metadata."""
    view, at, end = memoryview(body), 0, len(body)
    while at < end:
        if end - at < 8:
            raise WireError(f"Arrow stream: expected a message at byte {at}, found {end - at} bytes")
        mark, size = _PREFIX.unpack_from(body, at)
        if mark != 0xFFFFFFFF:
            raise WireError(f"Arrow stream: expected 0xFFFFFFFF before the message at byte {at}, found 0x{mark:08X}")
        at += 8
        if not size:
            if at != end:
                raise WireError(f"Arrow stream: expected nothing behind its end, found {end - at} bytes")
            return
        if size < 8 or size > end - at:
            raise WireError(f"Arrow stream: expected {size} bytes of metadata at byte {at}, found {end - at}")
        raw = body[at : at + size]
        head = _heads.get(raw) or _parse(raw)
        at += size
        if head.length > end - at:
            raise WireError(f"Arrow stream: expected {head.length} bytes of data at byte {at}, found {end - at}")
        yield head, view[at : at + head.length]
        at += head.length


def _parse(raw: bytes) -> Head:
    message = Table.root(raw)
    kind, header, length = message.number(1, "B"), message.table(2), message.number(3, "q")
    if header is None or message.number(0, "h") not in _VERSIONS:
        raise WireError(f"Arrow stream: expected messages of version V4 or V5, found number {message.number(0, 'h')}")
    if length < 0:
        raise ValueError(f"a body of {length} bytes")
    if kind == _SCHEMA:
        head = Head(kind, length, parse_schema(header))
    elif kind == _BATCH:
        head = Head(kind, length, batch=Batch.parse(header))
    elif kind == _DICTIONARY and (table := header.table(1)) is not None:
        head = Head(kind, length, (), Batch.parse(table), header.number(0, "q"), bool(header.number(2, "?")))
    else:
        raise WireError(f"Arrow stream: expected a schema, dictionaries and batches, found a message of kind {kind}")
    if len(raw) <= _LONGEST:
        if len(_heads) >= _REMEMBERED or sum(map(len, _heads)) > _MOST:
            _heads.clear()
        _heads[raw] = head
    return head


def _read(body: bytes, names: set[str] | None, budget: Budget) -> dict[str, Values]:
    fields: tuple[Field, ...] = ()
    reader, chunks = Reader(budget), dict[str, list[Values]]()
    encoded: dict[int, Field] = {}
    for head, data in messages(body):
        if bool(fields) == (head.kind == _SCHEMA):
            raise WireError("Arrow stream: expected one schema with columns, and then batches")
        if head.batch is None:
            fields = head.fields
            for field in fields:
                if names is None or field.name in names:
                    if field.name in chunks:
                        raise WireError(f"Arrow stream: expected each column once, found {field.name[:80]!r} again")
                    chunks[field.name] = []
                    encoded |= field.dictionaries()
        elif head.kind == _BATCH:
            _add(Body(head.batch, data, budget), fields, reader, chunks)
        elif head.dictionary in encoded:
            part = Body(head.batch, data, budget).take(encoded[head.dictionary].values())
            if part is not None:
                reader.remember(head.dictionary, part, head.more)
    if not fields:
        raise WireError("Arrow stream: expected a schema with columns, found none")
    return {field.name: reader.column(field, chunks[field.name]) for field in fields if field.name in chunks}


def _add(body: Body, fields: tuple[Field, ...], reader: Reader, chunks: dict[str, list[Values]]) -> None:
    """Puts one batch's values behind those of the batches before it."""
    for field in fields:
        part = body.take(field, field.name in chunks)
        if part is not None:
            if part.rows != body.rows:
                raise ValueError(f"{part.rows} rows of {field.name[:80]!r} in a batch of {body.rows}")
            chunks[field.name].append(reader.values(part))


def _matrix(body: bytes, plan: InputPlan, dtype: np.dtype[Any]) -> np.ndarray | None:
    """The plan's columns as [rows x columns]; None where the general way must look, at an odd stream or a faulty one."""
    parts: list[np.ndarray] = []
    try:
        schema: Head | None = None
        for head, data in messages(body):
            if schema is None:
                schema = head
                continue
            key = (schema, head, plan.keys, dtype)
            layout = _layouts[key] if key in _layouts else _keep(key, _layout(*key))
            if layout is None:
                return None
            parts.append(_columns(layout, data))
    except (WireError, ValueError):
        return None
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _columns(layout: Layout, body: memoryview) -> np.ndarray:
    """[rows x columns], a copy: models may write into what they are given. Raises ValueError."""
    if len(body) < layout.end:
        raise ValueError
    dtype = layout.dtype
    out = np.empty((layout.rows, len(layout.offsets)), dtype=dtype)
    if layout.stride is not None:
        out[:] = np.ndarray(out.shape, dtype, body, layout.offsets[0], (dtype.itemsize, layout.stride))
    else:
        for number, offset in enumerate(layout.offsets):
            out[:, number] = np.frombuffer(body, dtype, layout.rows, offset)
    return out


def _keep(key: tuple[Head, Head, tuple[str, ...], np.dtype[Any]], layout: Layout | None) -> Layout | None:
    if len(_layouts) >= _REMEMBERED:
        _layouts.clear()
    _layouts[key] = layout
    return layout


def _layout(schema: Head, head: Head, names: tuple[str, ...], dtype: np.dtype[Any]) -> Layout | None:
    """Where the columns called *names* lie, if all are of *dtype*, in full and uncompressed."""
    batch = head.batch
    if schema.kind != _SCHEMA or head.kind != _BATCH or batch is None or batch.codec or not batch.rows:
        return None
    places: dict[str, int] = {}
    at = 0
    for number, field in enumerate(schema.fields):
        if field.children or field.kind.endswith("view") or number >= len(batch.nodes):
            return None
        if field.name in names:
            rows, nulls = batch.nodes[number]
            plain = field.kind in ("int", "float") and field.encoded is None and field.dtype == dtype
            if field.name in places or not plain or nulls or rows != batch.rows or at + 1 >= len(batch.buffers):
                return None
            offset, length = batch.buffers[at + 1]
            if offset < 0 or length < rows * dtype.itemsize:
                return None
            places[field.name] = offset
        at += field.buffers if field.encoded is None else 2
    if places.keys() != set(names):
        return None
    offsets = tuple(places[name] for name in names)
    steps = {after - before for before, after in pairwise(offsets)}
    stride = steps.pop() if len(steps) == 1 else dtype.itemsize if not steps else None
    return Layout(batch.rows, dtype, offsets, stride, max(offsets) + batch.rows * dtype.itemsize)
