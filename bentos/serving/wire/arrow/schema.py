"""Arrow's schema message: the fields of a stream, and how many buffers each has in a batch.

https://arrow.apache.org/docs/format/Columnar.html and Schema.fbs of the Arrow project.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bentos.serving.wire.arrow.flatbuffer import Table
from bentos.serving.wire.interface import WireError

MEDIA_TYPE = "application/vnd.apache.arrow.stream"
NAMES = (  # noqa: SIM905 one a type, by its number
    "none null int float binary utf8 bool decimal date time timestamp interval list struct union fixed_size_binary "
    "fixed_size_list map duration large_binary large_utf8 large_list run_end_encoded binary_view utf8_view list_view "
    "large_list_view"
).split()
_BUFFERS = {
    "null": 0,
    "struct": 1,
    "fixed_size_list": 1,
    "run_end_encoded": 0,
    **dict.fromkeys(("binary", "utf8", "large_binary", "large_utf8", "list_view", "large_list_view"), 3),
}  # the others have 2: validity, and values or offsets
NANOSECONDS = (1_000_000_000, 1_000_000, 1_000, 1)  # by Arrow's unit of time
_DEEPEST = 16
_SMALLEST = 16  # bytes of metadata a field


@dataclass(frozen=True)
class Field:
    """A column, or a part of a nested one.

    ``kind`` is Arrow's name of the type, without its parameters; ``dtype`` that of the values of numbers (and of dates and
    timestamps: how they lie in the buffer); ``scale`` is a decimal's scale, nanoseconds a unit of time, or the width of a
    fixed-size type. ``encoded`` is the id of the dictionary and ``index`` the dtype of the indices, where there is one.
    """

    name: str
    kind: str
    dtype: np.dtype[Any] | None = None
    scale: int = 0
    children: tuple[Field, ...] = ()
    encoded: int | None = None
    index: np.dtype[Any] | None = None
    dense: bool = False

    @property
    def buffers(self) -> int:
        """How many buffers a batch has for this field, besides its children's and the variadic ones of views."""
        if self.kind == "union":
            return 2 if self.dense else 1
        return _BUFFERS.get(self.kind, 2)

    def values(self) -> Field:
        """The field of the dictionary's values."""
        return replace(self, encoded=None, index=None)

    def dictionaries(self) -> dict[int, Field]:
        """Each dictionary that this field or its children refer to, with a field that does."""
        found = {} if self.encoded is None else {self.encoded: self}
        for child in self.children:
            found |= child.dictionaries()
        return found


def parse_schema(table: Table) -> tuple[Field, ...]:
    """The fields of a schema message. Raises WireError, and ValueError where the message is torn."""
    if table.number(0, "h"):
        raise WireError("Arrow stream: found a big-endian schema, expected little endian")
    left = [len(table.data) // _SMALLEST]  # parts of a FlatBuffer may be shared: a few bytes can say millions of fields
    return tuple(_field(Table.read(table.data, at), left, 0) for at in table.tables(1))


def _field(table: Table, left: list[int], depth: int) -> Field:
    left[0] -= 1
    if left[0] < 0 or depth > _DEEPEST:
        raise WireError(f"Arrow stream: expected fields of their own, nested at most {_DEEPEST} deep; found more")
    kind = NAMES[min(table.number(2, "B"), len(NAMES) - 1)]
    kind_table = table.table(3)
    if kind_table is None or kind == "none":
        raise ValueError(f"a field {table.text(0)[:80]!r} without a type")
    children = tuple(_field(Table.read(table.data, at), left, depth + 1) for at in table.tables(5))
    dtype, scale = _type(kind, kind_table)
    encoded, index = None, None
    if (dictionary := table.table(4)) is not None:
        encoded, indices = dictionary.number(0, "q"), dictionary.table(1)
        index = np.dtype("<i4") if indices is None else _integer(indices)
    dense = kind == "union" and kind_table.number(0, "h") == 1
    _check(kind, children)
    return Field(table.text(0), kind, dtype, scale, children, encoded, index, dense)


def _check(kind: str, children: tuple[Field, ...]) -> None:
    """The children that a nested type must have. Raises ValueError."""
    wanted = {"list": 1, "large_list": 1, "fixed_size_list": 1, "map": 1, "run_end_encoded": 2}
    nested = {**wanted, "list_view": 1, "large_list_view": 1, "struct": len(children), "union": len(children)}
    if len(children) != nested.get(kind, 0):
        raise ValueError(f"a {kind} of {len(children)} children")
    if kind == "map" and (children[0].kind != "struct" or len(children[0].children) != 2):
        raise ValueError("a map whose entries are not keys and values")


def _type(kind: str, table: Table) -> tuple[np.dtype[Any] | None, int]:
    if kind == "int":
        return _integer(table), 0
    if kind == "float":
        return np.dtype(("<f2", "<f4", "<f8")[_one_of(table.number(0, "h"), 3, "precision")]), 0
    if kind == "date":
        days = _one_of(table.number(0, "h", 1), 2, "unit of dates") == 0
        return (np.dtype("<i4"), 86_400 * NANOSECONDS[0]) if days else (np.dtype("<i8"), NANOSECONDS[1])
    if kind == "timestamp":
        return np.dtype("<i8"), NANOSECONDS[_one_of(table.number(0, "h"), 4, "unit of time")]
    if kind == "decimal":
        width = table.number(2, "i", 128)
        if width not in (32, 64, 128, 256) or abs(table.number(1, "i")) > 76:
            raise ValueError(f"a decimal of {width} bits and scale {table.number(1, 'i')}")
        return np.dtype(f"V{width // 8}"), table.number(1, "i")
    if kind in ("fixed_size_binary", "fixed_size_list"):
        width = table.number(0, "i")
        if width < 0 or (kind == "fixed_size_binary" and not width):
            raise ValueError(f"a {kind} of {width}")
        return None, width
    return None, 0


def _integer(table: Table) -> np.dtype[Any]:
    width = table.number(0, "i")
    if width not in (8, 16, 32, 64):
        raise ValueError(f"an integer of {width} bits")
    return np.dtype(f"<{'i' if table.number(1, '?') else 'u'}{width // 8}")


def _one_of(value: int, count: int, what: str) -> int:
    if not 0 <= value < count:
        raise ValueError(f"{what} {value}")
    return value
