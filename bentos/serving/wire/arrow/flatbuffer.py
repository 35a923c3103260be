"""FlatBuffers, as far as Arrow's messages need them: tables, vectors, structs and texts, read with every bound checked.

https://flatbuffers.dev/internals/. Positions are byte offsets in the buffer. What points outside of it raises ValueError.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

_SIZES = {"b": 1, "B": 1, "?": 1, "h": 2, "H": 2, "i": 4, "I": 4, "q": 8}


@dataclass(frozen=True)
class Table:
    """A table in a buffer: its fields by slot, each with the default it has where it is not written."""

    data: bytes
    at: int
    vtable: int
    slots: int

    @staticmethod
    def root(data: bytes) -> Table:
        """The table a buffer begins with. Raises ValueError."""
        return Table.read(data, _scalar(data, 0, "I"))

    @staticmethod
    def read(data: bytes, at: int) -> Table:
        """The table at a position. Raises ValueError."""
        vtable = at - _scalar(data, at, "i")
        size = _scalar(data, vtable, "H")
        if size < 4 or size % 2 or vtable + size > len(data):
            raise ValueError(f"a vtable of {size} bytes at {vtable}")
        return Table(data, at, vtable, size // 2 - 2)

    def number(self, slot: int, code: str, default: int = 0) -> int:
        """A scalar of struct's *code*. Raises ValueError."""
        place = self._place(slot)
        return default if place is None else _scalar(self.data, place, code)

    def table(self, slot: int) -> Table | None:
        """A table, None where it is not written. Raises ValueError."""
        place = self._place(slot)
        return None if place is None else Table.read(self.data, self._target(place))

    def text(self, slot: int) -> str:
        """A text, empty where it is not written. Raises ValueError."""
        place = self._place(slot)
        if place is None:
            return ""
        start, length = self._vector(place, 1)
        return self.data[start : start + length].decode()

    def tables(self, slot: int) -> list[int]:
        """The positions of the tables of a vector. Raises ValueError."""
        place = self._place(slot)
        if place is None:
            return []
        start, count = self._vector(place, 4)
        return [self._target(start + 4 * number) for number in range(count)]

    def longs(self, slot: int, each: int = 1) -> list[tuple[int, ...]]:
        """A vector of structs of *each* 64-bit integers. Raises ValueError."""
        place = self._place(slot)
        if place is None:
            return []
        start, count = self._vector(place, 8 * each)
        return list(struct.iter_unpack(f"<{each}q", self.data[start : start + 8 * each * count]))

    def _place(self, slot: int) -> int | None:
        if slot >= self.slots:
            return None
        offset = _scalar(self.data, self.vtable + 4 + 2 * slot, "H")
        return self.at + offset if offset else None

    def _target(self, place: int) -> int:
        return place + _scalar(self.data, place, "I")

    def _vector(self, place: int, size: int) -> tuple[int, int]:
        at = self._target(place)
        count = _scalar(self.data, at, "I")
        if at + 4 + count * size > len(self.data):
            raise ValueError(f"a vector of {count} elements at {at}, which ends outside")
        return at + 4, count


def _scalar(data: bytes, at: int, code: str) -> int:
    if at < 0 or at + _SIZES[code] > len(data):
        raise ValueError(f"position {at} of {len(data)}")
    found: int = struct.unpack_from("<" + code, data, at)[0]
    return found


@dataclass(frozen=True)
class Structs:
    """A vector of structs to write: *count* of them, packed, 8-byte aligned."""

    count: int
    packed: bytes


Slot: TypeAlias = "tuple[str, int] | str | Structs | Sequence[Any] | dict[int, Any] | None"
"""What a table's slot holds when it is written: a scalar with struct's code, a text, structs, a list of tables, a table."""


def build(table: dict[int, Slot]) -> bytes:
    """A buffer with *table* (slot → value) as its root, padded to 8 bytes."""
    out = bytearray(8)
    struct.pack_into("<I", out, 0, _write_table(out, table))
    _pad(out)
    return bytes(out)


def _write(out: bytearray, value: Any) -> int:
    """Appends a value that is referred to by an offset; returns its position."""
    if isinstance(value, dict):
        return _write_table(out, value)
    _pad(out)
    if isinstance(value, Structs):
        out += bytes(4)  # the elements, not their count, lie on 8 bytes
        at = len(out)
        out += struct.pack("<I", value.count) + value.packed
        return at
    at = len(out)
    if isinstance(value, str):
        text = value.encode()
        out += struct.pack("<I", len(text)) + text + b"\0"
        return at
    out += struct.pack("<I", len(value)) + bytes(4 * len(value))
    for number, item in enumerate(value):
        place = at + 4 + 4 * number
        struct.pack_into("<I", out, place, _write(out, item) - place)
    return at


def _write_table(out: bytearray, table: dict[int, Slot]) -> int:
    """A vtable and behind it the table, whose fields have 8 bytes each."""
    slots = max(table, default=-1) + 1
    present = [slot for slot in range(slots) if table.get(slot) is not None]
    places = {slot: 8 + 8 * number for number, slot in enumerate(present)}
    size = 8 + 8 * len(present)
    _pad(out)
    vtable = len(out)
    out += struct.pack(f"<{2 + slots}H", 4 + 2 * slots, size, *(places.get(slot, 0) for slot in range(slots)))
    _pad(out)
    at = len(out)
    out += struct.pack("<i", at - vtable) + bytes(size - 4)
    for slot in present:
        value, place = table[slot], at + places[slot]
        if isinstance(value, tuple):
            struct.pack_into("<" + value[0], out, place, value[1])
        else:
            struct.pack_into("<I", out, place, _write(out, value) - place)
    return at


def _pad(out: bytearray) -> None:
    out += bytes(-len(out) % 8)
