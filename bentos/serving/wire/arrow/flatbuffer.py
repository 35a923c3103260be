"""FlatBuffers, as far as Arrow's messages need them: tables, vectors, structs and texts, read with every bound checked.

https://flatbuffers.dev/internals/. Positions are byte offsets in the buffer. What points outside of it raises ValueError.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple


class Table(NamedTuple):
    """A table in a buffer: its fields by slot, each with the default it has where it is not written."""

    data: bytes
    at: int
    vtable: int
    slots: int

    @staticmethod
    def read(data: bytes, at: int | None = None) -> Table:
        """The table at a position, or the one a buffer begins with. Raises ValueError."""
        at = _scalar(data, 0, "I") if at is None else at
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
        return None if place is None else Table.read(self.data, place + _scalar(self.data, place, "I"))

    def text(self, slot: int) -> str:
        """A text, empty where it is not written. Raises ValueError."""
        return self._vector(slot, 1)[1].decode()

    def tables(self, slot: int, most: int | None = None) -> list[Table]:
        """A vector of tables, *most* of them, empty where it is not written. Raises ValueError."""
        start, data = self._vector(slot, 4)
        if most is not None and len(data) > 4 * most:
            raise ValueError(f"{len(data) // 4} tables, expected {most} at most")
        return [Table.read(self.data, start + 4 * n + at) for n, (at,) in enumerate(struct.iter_unpack("<I", data))]

    def pairs(self, slot: int) -> list[tuple[int, int]]:
        """A vector of structs of two 64-bit integers, empty where it is not written. Raises ValueError."""
        return list(struct.iter_unpack("<2q", self._vector(slot, 16)[1]))

    def _place(self, slot: int) -> int | None:
        offset = _scalar(self.data, self.vtable + 4 + 2 * slot, "H") if slot < self.slots else 0
        return self.at + offset if offset else None

    def _vector(self, slot: int, size: int) -> tuple[int, bytes]:
        """Where a vector's elements of *size* bytes begin, and their bytes."""
        place = self._place(slot)
        if place is None:
            return 0, b""
        at = place + _scalar(self.data, place, "I")
        end = at + 4 + _scalar(self.data, at, "I") * size
        if end > len(self.data):
            raise ValueError(f"a vector up to byte {end} of {len(self.data)}")
        return at + 4, self.data[at + 4 : end]


def _scalar(data: bytes, at: int, code: str) -> int:
    if at < 0 or at + struct.calcsize(code) > len(data):
        raise ValueError(f"position {at} of {len(data)}")
    return int(struct.unpack_from("<" + code, data, at)[0])


def build(table: dict[int, Any]) -> bytes:
    """A buffer with *table* as its root, padded to 8 bytes.

    A table is slot → value: a scalar as (struct's code, number), a text, 16-byte structs as bytes, a list of tables, a table.
    """
    out = bytearray(8)
    struct.pack_into("<I", out, 0, _write(out, table))
    return bytes(out.ljust(len(out) + -len(out) % 8, b"\0"))


def _write(out: bytearray, value: Any) -> int:
    """Appends a value that is referred to by an offset; returns its position."""
    out += bytes(-len(out) % 8)
    if isinstance(value, bytes):
        out += bytes(4) + struct.pack("<I", len(value) // 16) + value  # the elements, not their count, lie on 8 bytes
        return len(out) - len(value) - 4
    at, later = len(out), list[tuple[int, Any]]()
    if isinstance(value, str):
        out += struct.pack("<I", len(value.encode())) + value.encode() + b"\0"
    elif isinstance(value, list):
        out += struct.pack("<I", len(value)) + bytes(4 * len(value))
        later = [(at + 4 + 4 * number, item) for number, item in enumerate(value)]
    else:  # a vtable and behind it the table, whose fields have 8 bytes each
        places = {slot: 8 + 8 * number for number, slot in enumerate(value)}
        heads = [places.get(slot, 0) for slot in range(max(value, default=-1) + 1)]
        out += struct.pack(f"<2H{len(heads)}H", 4 + 2 * len(heads), 8 + 8 * len(value), *heads)
        out += bytes(-len(out) % 8)
        vtable, at = at, len(out)
        out += struct.pack("<i", at - vtable) + bytes(4 + 8 * len(value))
        for slot, place in places.items():
            if isinstance(value[slot], tuple):
                struct.pack_into("<" + value[slot][0], out, at + place, value[slot][1])
            else:
                later.append((at + place, value[slot]))
    for place, item in later:
        struct.pack_into("<I", out, place, _write(out, item) - place)
    return at
