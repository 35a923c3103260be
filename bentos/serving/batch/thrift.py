"""Thrift's compact protocol, as far as a Parquet footer needs it: read whole, changed, written again.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from typing import Any, TypeAlias

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12

Struct: TypeAlias = dict[int, tuple[int, Any]]
"""Field number → its type and its value: int, bool, bytes (of DOUBLE too, as they lie), a Struct, or for LIST and SET
(the items' type, the items)."""


def read_struct(data: bytes, at: int = 0) -> tuple[Struct, int]:
    """The struct that begins at ``at``, and where it ends. Raises ValueError for what is none, IndexError for one cut off."""
    out: Struct = {}
    field = 0
    while head := data[at]:
        at += 1
        if head >> 4:
            field += head >> 4
        else:
            field, at = _zigzag(data, at)
        kind = head & 15
        if kind in (TRUE, FALSE):
            out[field] = (TRUE, kind == TRUE)
        else:
            value, at = _read(data, at, kind)
            out[field] = (kind, value)
    return out, at + 1


def write_struct(struct: Struct) -> bytes:
    """The bytes of a struct; what ``read_struct`` read is written as it was."""
    out = bytearray()
    _write(out, STRUCT, struct)
    return bytes(out)


def _read(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind in (I16, I32, I64):
        return _zigzag(data, at)
    if kind == BINARY:
        size, at = _varint(data, at)
        return data[at : at + size], at + size
    if kind == STRUCT:
        return read_struct(data, at)
    if kind in (LIST, SET):
        head, at = data[at], at + 1
        size, at = _varint(data, at) if head >> 4 == 15 else (head >> 4, at)
        items = []
        for _ in range(size):
            item, at = _read(data, at, head & 15)
            items.append(item)
        return (head & 15, items), at
    if kind in (TRUE, FALSE, BYTE):  # a boolean in a list is a byte
        return data[at], at + 1
    if kind == DOUBLE:
        return data[at : at + 8], at + 8
    raise ValueError(f"thrift type {kind} at byte {at}: expected one that Parquet uses")


def _write(out: bytearray, kind: int, value: Any) -> None:
    if kind in (I16, I32, I64):
        _put(out, value << 1 if value >= 0 else (-value << 1) - 1)
    elif kind == BINARY:
        _put(out, len(value))
        out += value
    elif kind == STRUCT:
        last = 0
        for field, (inner, item) in value.items():
            kind = (TRUE if item else FALSE) if inner == TRUE else inner
            if 0 < field - last <= 15:
                out.append((field - last) << 4 | kind)
            else:
                out.append(kind)
                _write(out, I16, field)
            if inner != TRUE:
                _write(out, inner, item)
            last = field
        out.append(0)
    elif kind in (LIST, SET):
        inner, items = value
        out.append(min(len(items), 15) << 4 | inner)
        if len(items) >= 15:
            _put(out, len(items))
        for item in items:
            _write(out, inner, item)
    elif kind == DOUBLE:
        out += value
    else:
        out.append(value)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while (byte := data[at]) >= 128:
        value |= (byte & 127) << shift
        shift += 7
        at += 1
    return value | byte << shift, at + 1


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _put(out: bytearray, value: int) -> None:
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
