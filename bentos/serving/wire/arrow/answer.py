"""Predictions as an Arrow IPC stream of one record batch, ``prediction`` or the named outputs, as batch scoring writes them."""

from __future__ import annotations

import struct
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from bentos.serving.model.interface import Prediction
from bentos.serving.wire.arrow.flatbuffer import build
from bentos.serving.wire.arrow.messages import BATCH, MEDIA_TYPE, NAMES, SCHEMA
from bentos.serving.wire.interface import Body, NotAcceptableError

_END = b"\xff\xff\xff\xff\0\0\0\0"
_TYPES: dict[str, tuple[str, dict[int, Any]]] = {  # kind → Arrow's type, and the slots of its table
    **{f"i{size}": ("int", {0: ("i", 8 * size), 1: ("?", 1)}) for size in (1, 2, 4, 8)},
    **{f"u{size}": ("int", {0: ("i", 8 * size), 1: ("?", 0)}) for size in (1, 2, 4, 8)},
    **{f"f{size}": ("float", {0: ("h", number)}) for number, size in enumerate((2, 4, 8))},
    "M8": ("timestamp", {0: ("h", 3)}),
    **{kind: (kind, {}) for kind in ("bool", "null", "utf8", "binary", "list")},
}


class _Column(NamedTuple):
    """A kind of _TYPES, how many are null, and the buffers; of lists also how many items there are, and their kind."""

    kind: str
    nulls: int
    buffers: list[bytes]
    items: int = 0
    of: str = ""


def encode(prediction: Prediction) -> Body:
    """The answer as a stream. Raises NotAcceptableError where a column is neither numbers, lists of these, texts, bytes nor times,
    and where outputs differ in length."""
    outputs = prediction.outputs()
    if len(outputs) > 1 and len(set(map(len, outputs.values()))) > 1:
        found = ", ".join(f"{name!r} of {len(array)}" for name, array in outputs.items())
        raise NotAcceptableError(f"outputs of one length make a record batch, found {found}; ask for application/json")
    columns = {name: _column(name, array) for name, array in outputs.items()}
    kinds = tuple((name, column.kind, column.nulls, column.items, column.of) for name, column in columns.items())
    buffers = [buffer for column in columns.values() for buffer in column.buffers]
    head = _head(prediction.rows, kinds, tuple(map(len, buffers)))
    return Body(b"".join((head, *(buffer + bytes(-len(buffer) % 8) for buffer in buffers), _END)), MEDIA_TYPE)


@lru_cache(256)  # a server has one schema, and clients few row counts
def _head(rows: int, kinds: tuple[tuple[str, str, int, int, str], ...], lengths: tuple[int, ...]) -> bytes:
    """The schema, and the metadata of the batch."""
    fields = [_field(name, kind, [_field("item", of, [])] if of else []) for name, kind, _, _, of in kinds]
    ends = list(accumulate((length + -length % 8 for length in lengths), initial=0))
    places = b"".join(struct.pack("<2q", *place) for place in zip(ends, lengths, strict=False))
    nodes = b"".join(
        struct.pack("<2q", rows, nulls) + (struct.pack("<2q", items, 0) if of else b"")
        for _, _, nulls, items, of in kinds
    )
    return _message(SCHEMA, {1: fields}, 0) + _message(BATCH, {0: ("q", rows), 1: nodes, 2: places}, ends[-1])


def _field(name: str, kind: str, children: list[dict[int, Any]]) -> dict[int, Any]:
    what, slots = _TYPES[kind]
    return {0: name, 1: ("?", 1), 2: ("B", NAMES.index(what)), 3: slots, 5: children}


def _message(kind: int, table: dict[int, Any], length: int) -> bytes:
    data = build({0: ("h", 4), 1: ("B", kind), 2: table, 3: ("q", length)})  # version V5
    return struct.pack("<Ii", 0xFFFFFFFF, len(data)) + data


def _column(name: str, array: np.ndarray) -> _Column:
    """What pyarrow would make of the same array, whose objects are texts, bytes or None."""
    kind, kinds = array.dtype.kind, set[type]()
    if array.ndim == 2 and kind in "iufb" and array.size < 1 << 31:  # a row of several numbers is a list
        inner = _column(name, array.ravel())
        ends = np.arange(len(array) + 1, dtype="<i4") * array.shape[1]
        return _Column("list", 0, [b"", ends.astype("<i4").tobytes(), *inner.buffers], array.size, inner.kind)
    if array.ndim == 1 and kind in "iuf" and array.dtype.itemsize <= 8:
        data = array.astype(array.dtype.newbyteorder("<")).tobytes()
        return _Column(f"{kind}{array.dtype.itemsize}", 0, [b"", data])
    if array.ndim == 1 and kind == "b":
        return _Column("bool", 0, [b"", np.packbits(array, bitorder="little").tobytes()])
    if array.ndim == 1 and kind == "M":
        return _Column("M8", *_nullable(~np.isnat(array), array.astype("<M8[ns]").tobytes()))
    if array.ndim == 1 and kind in "OUS":
        values = array.tolist()
        valid = np.array([value is not None for value in values], dtype=bool)
        kinds = {type(value) for value in values if value is not None}
        if not kinds:
            return _Column("null", len(values), [])
        if kinds <= {str} or kinds <= {bytes}:
            items = [value.encode() if isinstance(value, str) else value or b"" for value in values]
            bounds = np.cumsum([0, *map(len, items)])
            if bounds[-1] < 1 << 31:
                buffers = _nullable(valid, bounds.astype("<i4").tobytes(), b"".join(items))
                return _Column("utf8" if str in kinds else "binary", *buffers)
    found = sorted(kind.__name__ for kind in kinds) or f"an array of {array.dtype} {list(array.shape)}"
    raise NotAcceptableError(f"output {name!r}: found {found}, no Arrow column holds these; ask for application/json")


def _nullable(valid: np.ndarray, *buffers: bytes) -> tuple[int, list[bytes]]:
    """How many are not *valid*, and the buffers of a column with the bits that say which."""
    nulls = len(valid) - int(np.count_nonzero(valid))
    return nulls, [np.packbits(valid, bitorder="little").tobytes() if nulls else b"", *buffers]
