"""Predictions as an Arrow IPC stream of one record batch, ``prediction`` or the named outputs, as batch scoring writes them."""

from __future__ import annotations

import struct
from functools import lru_cache
from itertools import accumulate
from typing import Any, TypeAlias

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
    **{kind: (kind, {}) for kind in ("bool", "null", "utf8", "binary")},
}
_Column: TypeAlias = tuple[str, int, list[bytes]]
"""A kind of _TYPES, how many are null, and the buffers."""


def encode(prediction: Prediction) -> Body:
    """The answer as a stream. Raises NotAcceptableError where a column is neither numbers, texts, bytes nor times."""
    columns = {name: _column(name, array) for name, array in prediction.outputs().items()}
    kinds = tuple((name, kind, nulls) for name, (kind, nulls, _) in columns.items())
    buffers = [buffer for _, _, found in columns.values() for buffer in found]
    head = _head(prediction.rows, kinds, tuple(map(len, buffers)))
    return Body(b"".join((head, *(buffer + bytes(-len(buffer) % 8) for buffer in buffers), _END)), MEDIA_TYPE)


@lru_cache(256)  # a server has one schema, and clients few row counts
def _head(rows: int, kinds: tuple[tuple[str, str, int], ...], lengths: tuple[int, ...]) -> bytes:
    """The schema, and the metadata of the batch."""
    types = [(name, *_TYPES[kind]) for name, kind, _ in kinds]
    fields = [{0: name, 1: ("?", 1), 2: ("B", NAMES.index(what)), 3: slots, 5: []} for name, what, slots in types]
    ends = list(accumulate((length + -length % 8 for length in lengths), initial=0))
    places = b"".join(struct.pack("<2q", *place) for place in zip(ends, lengths, strict=False))
    nodes = b"".join(struct.pack("<2q", rows, nulls) for _, _, nulls in kinds)
    return _message(SCHEMA, {1: fields}, 0) + _message(BATCH, {0: ("q", rows), 1: nodes, 2: places}, ends[-1])


def _message(kind: int, table: dict[int, Any], length: int) -> bytes:
    data = build({0: ("h", 4), 1: ("B", kind), 2: table, 3: ("q", length)})  # version V5
    return struct.pack("<Ii", 0xFFFFFFFF, len(data)) + data


def _column(name: str, array: np.ndarray) -> _Column:
    """What pyarrow would make of the same array, whose objects are texts, bytes or None."""
    kind, kinds = array.dtype.kind, set[type]()
    if array.ndim == 1 and kind in "iuf" and array.dtype.itemsize <= 8:
        return f"{kind}{array.dtype.itemsize}", 0, [b"", array.astype(array.dtype.newbyteorder("<")).tobytes()]
    if array.ndim == 1 and kind == "b":
        return "bool", 0, [b"", np.packbits(array, bitorder="little").tobytes()]
    if array.ndim == 1 and kind == "M":
        return "M8", *_nullable(~np.isnat(array), array.astype("<M8[ns]").tobytes())
    if array.ndim == 1 and kind in "OUS":
        values = array.tolist()
        valid = np.array([value is not None for value in values], dtype=bool)
        kinds = {type(value) for value in values if value is not None}
        if not kinds:
            return "null", len(values), []
        if kinds <= {str} or kinds <= {bytes}:
            items = [value.encode() if isinstance(value, str) else value or b"" for value in values]
            bounds = np.cumsum([0, *map(len, items)])
            if bounds[-1] < 1 << 31:
                buffers = _nullable(valid, bounds.astype("<i4").tobytes(), b"".join(items))
                return "utf8" if str in kinds else "binary", *buffers
    found = sorted(kind.__name__ for kind in kinds) or f"an array of {array.dtype} {list(array.shape)}"
    raise NotAcceptableError(f"output {name!r}: found {found}, no Arrow column holds these; ask for application/json")


def _nullable(valid: np.ndarray, *buffers: bytes) -> tuple[int, list[bytes]]:
    """How many are not *valid*, and the buffers of a column with the bits that say which."""
    nulls = len(valid) - int(np.count_nonzero(valid))
    return nulls, [np.packbits(valid, bitorder="little").tobytes() if nulls else b"", *buffers]
