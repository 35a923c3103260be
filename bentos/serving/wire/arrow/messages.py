"""Arrow's messages: what the schema says of columns, and where in a body each batch has their buffers.

https://arrow.apache.org/docs/format/Columnar.html, Schema.fbs and Message.fbs of the Arrow project. Read are the types whose
values lie flat: numbers, booleans, dates, timestamps, texts, bytes, nulls, dictionaries of these, and lists of numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from bentos.serving.wire.arrow.flatbuffer import Table
from bentos.serving.wire.interface import MediaTypeError, WireError

MEDIA_TYPE = "application/vnd.apache.arrow.stream"
SCHEMA, DICTIONARY, BATCH = 1, 2, 3
NAMES = (  # noqa: SIM905 one a type, by its number
    "none null int float binary utf8 bool decimal date time timestamp interval list struct union fixed_size_binary "
    "fixed_size_list map duration large_binary large_utf8 large_list run_end_encoded binary_view utf8_view list_view "
    "large_list_view"
).split()
_TEXTS = ("utf8", "large_utf8", "binary", "large_binary")
_READ = ("null", "int", "float", "bool", "date", "timestamp", *_TEXTS, "list", "fixed_size_list")
_LISTS = ("list", "fixed_size_list")
_BUFFERS = {
    **dict.fromkeys(_TEXTS, 3),
    "null": 0,
    "list": 4,
    "fixed_size_list": 3,
}  # validity, offsets, and values; else two
_NUMBERS = {  # (kind, width or unit, sign) → dtype, and nanoseconds a unit
    **{("int", 8 * size, sign): (f"<{'ui'[sign]}{size}", 0) for size in (1, 2, 4, 8) for sign in (0, 1)},
    **{("float", precision, 0): (f"<f{2 << precision}", 0) for precision in range(3)},
    **{("timestamp", unit, 0): ("<i8", 10 ** (9 - 3 * unit)) for unit in range(4)},
}
_NUMBERS |= {("date", 0, 0): ("<i4", 86_400 * 10**9), ("date", 1, 0): ("<i8", 10**6)}
_SMALLEST = 16  # bytes of metadata a field
_LONGEST = 64 << 10  # bytes of metadata remembered


class Field(NamedTuple):
    """A column. ``kind`` is Arrow's name of the type, without its parameters; ``dtype`` how its numbers, or those of its
    lists, lie in the buffer.

    ``scale`` is nanoseconds a unit of a date or timestamp, else 0. ``codes`` is the dtype of the indices into the dictionary
    ``dictionary``, None where the values lie in the batch itself. ``width``
    is how many numbers each list of a fixed size has.
    """

    name: str
    kind: str
    dtype: np.dtype[Any] | None
    scale: int
    dictionary: int = 0
    codes: np.dtype[Any] | None = None
    width: int = 0


Part: TypeAlias = tuple[Field, int, list[tuple[int, int]]]
"""A field in a batch: how many of its rows are null, and (offset, length) of each of its buffers in the body."""


@dataclass(frozen=True, eq=False)
class Message:
    """A message's metadata: its kind, and of the rest what is its kind's.

    ``length`` is bytes of body; ``nodes`` are (rows, nulls) a field, ``buffers`` (offset, length) in the body.
    """

    kind: int
    length: int
    fields: tuple[Field, ...] = ()
    dictionary: int = 0
    rows: int = 0
    nodes: Sequence[tuple[int, int]] = ()
    buffers: Sequence[tuple[int, int]] = ()

    def parts(self, fields: tuple[Field, ...]) -> list[Part]:
        """What a batch, or a dictionary, holds of each of *fields*. Raises ValueError."""
        found, at, nodes = list[Part](), 0, iter(self.nodes)
        for field in fields:
            rows, nulls = next(nodes, (-1, 0))
            kind = field.kind if field.codes is None else "int"
            if kind in _LISTS and next(nodes, (0, 1))[1]:
                raise ValueError(f"nulls in the lists of {field.name[:80]!r}, expected numbers")
            end = at + (_BUFFERS.get(kind, 2))
            if rows != self.rows or end > len(self.buffers):
                raise ValueError(f"{rows} rows of {field.name[:80]!r} in a batch of {self.rows}")
            found.append((field, nulls, list(self.buffers[at:end])))
            at = end
        if next(nodes, None) is not None:
            raise ValueError(f"more columns in a batch than the {len(fields)} of the schema")
        return found


def messages(body: bytes) -> Iterator[tuple[Message, memoryview]]:
    """The messages of a stream up to its end, each with its body. Raises WireError, and ValueError for torn metadata."""
    view, at, end = memoryview(body), 0, len(body)
    while at < end:
        if body[at : at + 4] != b"\xff\xff\xff\xff":
            raise WireError(f"Arrow stream: expected 0xFFFFFFFF at byte {at}, found {body[at : at + 4]!r}")
        size, at = int.from_bytes(body[at + 4 : at + 8], "little"), at + 8
        if not size and at == end:
            return
        found = (_remembered if size <= _LONGEST else _parse)(body[at : at + size])
        start, at = at + size, at + size + found.length
        if at > end:
            raise WireError(f"Arrow stream: expected {found.length} bytes of data at byte {start}, found {end - start}")
        yield found, view[start:at]


def _parse(raw: bytes) -> Message:
    message = Table.read(raw)
    kind, table, length = message.number(1, "B"), message.table(2), message.number(3, "q")
    if table is None or message.number(0, "h") not in (3, 4):
        raise WireError(f"Arrow stream: expected messages of version V4 or V5, found number {message.number(0, 'h')}")
    if kind == SCHEMA:
        return Message(kind, 0, _fields(table))
    dictionary, more = (table.number(0, "q"), table.number(2, "B")) if kind == DICTIONARY else (0, 0)
    batch = table.table(1) if kind == DICTIONARY else table
    if kind not in (DICTIONARY, BATCH) or more or batch is None:
        raise WireError(
            f"Arrow stream: expected schema, whole dictionaries and batches, found a message of kind {kind}"
        )
    if batch.table(3) is not None:
        raise MediaTypeError(
            "Arrow stream: found compressed buffers, which are not read: write it without, and gzip the body as a whole"
        )
    rows, buffers, at = batch.number(0, "q"), batch.pairs(2), 0
    for offset, size in buffers:  # one behind the other: shared ones would stand for far more memory than the body
        if offset < at or size < 0 or offset + size > length:
            raise ValueError(f"a buffer of {size} bytes at {offset}, behind byte {at} of {length}")
        at = offset + size
    if rows < 0 or length < 0:
        raise ValueError(f"a batch of {rows} rows in {length} bytes")
    return Message(kind, length, (), dictionary, rows, batch.pairs(1), buffers)


_remembered = lru_cache(256)(_parse)  # clients send few, and reading one takes ten times as long as its rows


def _fields(table: Table) -> tuple[Field, ...]:
    if table.number(0, "h"):
        raise WireError("Arrow stream: found a big-endian schema, expected little endian")
    found, size = list[Field](), 0
    for entry in table.tables(1):  # parts of a FlatBuffer may be shared: a few bytes can say millions of fields
        found.append(_field(entry))
        if (size := size + _SMALLEST + len(found[-1].name)) > len(table.data):
            raise WireError("Arrow stream: expected fields of their own, found one description for many")
    return tuple(found)


def _field(table: Table) -> Field:
    name, number, about = table.text(0), table.number(2, "B"), table.table(3)
    kind = NAMES[number] if number < len(NAMES) else "of a later version"
    if kind not in _READ or about is None:
        raise WireError(
            f"column {name[:80]!r}: found the Arrow type {kind}, which is not read; expected one of {', '.join(_READ)}. "
            "Cast it, or leave it out; nested values go as application/json"
        )
    dtype: np.dtype[Any] | None = None
    scale = width = 0
    if kind in _LISTS:
        dtype = _items(name, table)
        width = about.number(0, "i") if kind == "fixed_size_list" else 0
        if width < (kind == "fixed_size_list"):
            raise ValueError(f"lists of {width} numbers")
    elif kind not in ("null", "bool", *_TEXTS):
        dtype, scale = _numbers(kind, about)
    if (dictionary := table.table(4)) is None:
        return Field(name, kind, dtype, scale, width=width)
    codes = _numbers("int", about)[0] if (about := dictionary.table(1)) else np.dtype("<i4")
    return Field(name, kind, dtype, scale, dictionary.number(0, "q"), codes, width)


def _items(name: str, table: Table) -> np.dtype[Any]:
    """How the numbers of a list lie. Raises WireError where it holds anything else."""
    children = [
        (NAMES[child.number(2, "B") % len(NAMES)], child.table(3), child.table(4)) for child in table.tables(5, 1)
    ]
    if len(children) == 1:
        ((kind, about, dictionary),) = children
        if kind in ("int", "float") and about is not None and dictionary is None:
            return _numbers(kind, about)[0]
    raise WireError(
        f"column {name[:80]!r}: found a list of {[kind for kind, *_ in children][:5]}, expected one of numbers; nested values"
        " go as application/json"
    )


def _numbers(kind: str, about: Table) -> tuple[np.dtype[Any], int]:
    """How numbers lie in a buffer, and nanoseconds a unit of a time. Raises ValueError."""
    unit = about.number(0, "i" if kind == "int" else "h", int(kind == "date"))
    if (found := _NUMBERS.get((kind, unit, about.number(1, "B") if kind == "int" else 0))) is None:
        raise ValueError(f"{kind} of width or unit {unit}")
    return np.dtype(found[0]), found[1]
