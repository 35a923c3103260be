"""Arrow IPC streams: the record batches of a request as inputs, with nothing but numpy (answers: ``answer``).

Values are those that a plan gets from a table in a file (``bentos/serving/batch/tables.py``): numbers and booleans without
nulls, floats, dates and timestamps (in nanoseconds, UTC) are arrays, everything else lists with None for null. Every bound is
checked here, in Python: a malformed body raises and cannot take the process along.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from bentos.serving.inputs.plan import InputPlan
from bentos.serving.inputs.rows import InputRows
from bentos.serving.wire.arrow.answer import encode
from bentos.serving.wire.arrow.messages import BATCH, MEDIA_TYPE, SCHEMA, Field, Message, Part, messages
from bentos.serving.wire.interface import WireError

__all__ = ["MEDIA_TYPE", "decode", "encode", "read"]

Values = np.ndarray | list[Any]
_NULLS = 1 << 17  # of columns of nothing else, which take no bytes; and 4 a byte of the body


def decode(body: bytes, plan: InputPlan) -> InputRows:
    """The rows of a stream as *plan* wants them; columns it does not know stay unread. Raises WireError and InputError."""
    if plan.uniform is not None and (matrix := _matrix(body, plan.keys, plan.uniform)) is not None:
        return plan.whole(matrix)
    names = {column.name for column in plan.columns}
    return plan.coerce(read(body, None if not names or "" in names else names))


def read(body: bytes, names: set[str] | None = None) -> dict[str, Values]:
    """The columns called *names* (None: all) of a stream. Raises WireError."""
    try:
        stream = list(messages(body))
        if [message.kind for message, _ in stream].count(SCHEMA) != 1 or not stream[0][0].fields:
            raise WireError("Arrow stream: expected one schema with columns, and then batches")
        return _read(stream, names, _NULLS + 4 * len(body))
    except (ValueError, OverflowError, MemoryError) as error:
        raise WireError(f"Arrow stream: expected record batches, found {str(error)[:200]}") from None


def _read(stream: list[tuple[Message, memoryview]], names: set[str] | None, nulls: int) -> dict[str, Values]:
    """The columns, with *nulls* at most that take no bytes."""
    fields = stream[0][0].fields
    wanted = [field for field in fields if names is None or field.name in names]
    columns: dict[str, list[Values]] = {field.name: [] for field in wanted}
    if len(columns) != len(wanted):
        raise WireError(f"Arrow stream: expected each column once, found {[field.name[:80] for field in wanted][:50]}")
    encoded = {field.dictionary: field._replace(codes=None) for field in wanted if field.codes is not None}
    known: dict[int, Values] = {}
    for message, data in stream[1:]:
        if message.kind == BATCH:
            for part in message.parts(fields):
                if (chunks := columns.get(part[0].name)) is not None:
                    nulls -= message.rows if part[0].kind == "null" else 0
                    if nulls < 0:
                        raise WireError("Arrow stream: found far more nulls than bytes; send fewer rows at once")
                    chunks.append(_values(part, message.rows, data, known))
        elif message.dictionary in encoded:
            (part,) = message.parts((encoded[message.dictionary],))
            known[message.dictionary] = _values(part, message.rows, data, {})
    return {name: _joined(chunks) for name, chunks in columns.items()}


def _values(part: Part, rows: int, data: memoryview, known: dict[int, Values]) -> Values:
    """A part's values. Raises WireError where the buffers do not hold them."""
    field, nulls, places = part
    try:
        buffers = [data[offset : offset + length] for offset, length in places]
        valid = _bits(buffers[0], rows) if nulls and buffers else None
        return _masked(_plain(field, rows, buffers, known.get(field.dictionary), valid), valid)
    except ValueError as error:
        raise WireError(f"column {field.name[:80]!r}: expected {field.kind}, found {str(error)[:200]}") from None


def _plain(field: Field, rows: int, data: list[memoryview], known: Values | None, valid: np.ndarray | None) -> Values:
    """Values [rows], the null ones as any. Raises ValueError."""
    if field.codes is not None:
        return _decoded(_numbers(data[1], field.codes, rows), known, valid)
    if field.kind == "null":
        return [None] * rows
    if field.kind == "bool":
        return _bits(data[1], rows)
    if field.dtype is None:
        return _texts(field.kind, data[1], bytes(data[2]), rows)
    if field.width:
        lists: list[Any] = _numbers(data[2], field.dtype, rows * field.width).reshape(rows, field.width).tolist()
        return lists
    if field.kind == "list":
        bounds = _bounds(data[1], "<i4", rows, len(data[3]) // field.dtype.itemsize)
        items = _numbers(data[3], field.dtype, bounds[-1] if rows else 0)
        return [items[start:stop].tolist() for start, stop in pairwise(bounds)]
    numbers = _numbers(data[1], field.dtype, rows)
    return _times(numbers, field.scale, valid) if field.scale else numbers


def _masked(values: Values, valid: np.ndarray | None) -> Values:
    """*values* with nulls: NaN and NaT where an array has them, else a list with None."""
    if valid is None:
        return values
    if isinstance(values, np.ndarray) and values.dtype.kind in "fM":
        return np.where(valid, values, values.dtype.type("nan" if values.dtype.kind == "f" else "NaT"))
    return [value if there else None for value, there in zip(_listed(values), valid.tolist(), strict=True)]


def _joined(chunks: list[Values]) -> Values:
    """One column; an array is a copy, for models may write into what they are given."""
    if chunks and all(isinstance(chunk, np.ndarray) for chunk in chunks):
        return np.concatenate(chunks)
    return [value for chunk in chunks for value in _listed(chunk)]


def _listed(values: Values) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else values


def _bits(data: memoryview, rows: int) -> np.ndarray:
    """Booleans [rows] from bits, the lowest first. Raises ValueError."""
    return np.unpackbits(_numbers(data, np.dtype("u1"), (rows + 7) // 8), count=rows, bitorder="little").view(bool)


def _numbers(data: memoryview, dtype: np.dtype[Any], rows: int) -> np.ndarray:
    """Numbers [rows], read only. Raises ValueError."""
    if rows * dtype.itemsize > len(data):
        raise ValueError(f"{len(data)} bytes for {rows} values of {dtype.itemsize} bytes")
    return np.frombuffer(data, dtype, rows)


def _decoded(codes: np.ndarray, known: Values | None, valid: np.ndarray | None) -> Values:
    """The values of a dictionary that *codes* stand for."""
    if known is None:
        raise ValueError("no dictionary")
    if valid is not None:
        codes = np.where(valid, codes, 0)
        known = known if len(known) else np.zeros(1, known.dtype) if isinstance(known, np.ndarray) else [None]
    if len(codes) and not 0 <= codes.min() <= codes.max() < len(known):
        raise ValueError(f"a code outside of the {len(known)} values of its dictionary")
    return known[codes] if isinstance(known, np.ndarray) else list(map(known.__getitem__, codes.tolist()))


def _times(raw: np.ndarray, scale: int, valid: np.ndarray | None) -> np.ndarray:
    """Dates and timestamps in nanoseconds."""
    raw = np.where(True if valid is None else valid, raw, 0).astype(np.int64)
    limit = np.iinfo(np.int64).max // scale
    if len(raw) and (raw.max() > limit or raw.min() < -limit):
        raise ValueError("a time outside of the years 1678 to 2261")
    return (raw * scale).view("datetime64[ns]")


def _bounds(offsets: memoryview, dtype: str, rows: int, most: int) -> list[int]:
    """Where each of *rows* values begins and the last one ends. Raises ValueError."""
    bounds = _numbers(offsets, np.dtype(dtype), rows + 1 if rows else 0)
    if rows and (bounds[0] < 0 or (bounds[1:] < bounds[:-1]).any() or bounds[-1] > most):
        raise ValueError(f"offsets that fall, or that end outside of {most} bytes or items")
    return list(bounds.tolist())


def _texts(kind: str, offsets: memoryview, data: bytes, rows: int) -> list[Any]:
    """Texts or bytes. Raises ValueError, for texts that are not UTF-8 too."""
    spans = list(pairwise(_bounds(offsets, "<i8" if kind.startswith("large") else "<i4", rows, len(data))))
    if kind.endswith("utf8") and data.isascii():
        text = data.decode("ascii")
        return [text[start:stop] for start, stop in spans]
    return [data[start:stop] if kind.endswith("binary") else data[start:stop].decode() for start, stop in spans]


def _matrix(body: bytes, names: tuple[str, ...], dtype: np.dtype[Any]) -> np.ndarray | None:
    """The plan's columns as [rows x columns]; None where the general way must look, at an odd stream or a faulty one."""
    try:
        (schema, _), (batch, data) = messages(body)
        starts = _starts(schema, batch, names, dtype)
        windows = (len(data) // dtype.itemsize - batch.rows + 1, batch.rows)  # each run of as many items
        columns = np.ndarray(windows, dtype, data, 0, (dtype.itemsize, dtype.itemsize))
    except (WireError, ValueError):
        return None
    return None if starts is None else np.array(columns[starts].T, order="C")  # a copy: models may write into it


@lru_cache(256)
def _starts(schema: Message, batch: Message, names: tuple[str, ...], dtype: np.dtype[Any]) -> slice | np.ndarray | None:
    """Where the columns called *names* begin, in items, if all are of *dtype* and in full. Raises ValueError."""
    if schema.kind != SCHEMA or batch.kind != BATCH or not batch.rows:
        return None
    parts = {part[0].name: part for part in batch.parts(schema.fields)}
    found = list[int]()
    for field, nulls, buffers in (parts[name] for name in names if name in parts):
        flat = (
            field.dtype == dtype
            and not field.kind.endswith("list")
            and field.codes is None
            and not field.scale
            and not nulls
        )
        if not flat or buffers[1][0] % dtype.itemsize or buffers[1][1] < batch.rows * dtype.itemsize:
            return None
        found.append(buffers[1][0] // dtype.itemsize)
    if len(found) != len(names) or len(parts) != len(schema.fields):
        return None
    step, *others = {after - before for before, after in pairwise(found)} or {1}
    return np.array(found) if others or step < 1 else slice(found[0], found[-1] + 1, step)  # a slice is faster
