"""A field's part of a batch as values, the same ones that a plan gets from a table in a file (``bentos/serving/batch/tables.py``).

Numbers without nulls, floats, dates and timestamps (in nanoseconds, UTC) are arrays; everything else is a list with None
for null. Maps are lists of pairs inside other values, and dicts where they are the column itself.
"""

from __future__ import annotations

import decimal
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from bentos.serving.wire.arrow.body import Budget, Part, bits_of, numbers_of
from bentos.serving.wire.arrow.schema import Field
from bentos.serving.wire.interface import WireError

Values = np.ndarray | list[Any]
_NS = np.dtype("datetime64[ns]")
_LARGE = np.dtype("<i8")
_SMALL = np.dtype("<i4")


class Reader:
    """Makes values of parts. ``dictionaries`` holds what each dictionary of the stream says at this place in it."""

    def __init__(self, budget: Budget) -> None:
        self.dictionaries: dict[int, list[Any]] = {}
        self._budget = budget

    def column(self, field: Field, chunks: Sequence[Values]) -> Values:
        """A whole column, of the values that each batch has of it."""
        if field.kind == "map":
            chunks = [[None if row is None else dict(row) for row in chunk] for chunk in chunks]
        if field.kind == "decimal":
            chunks = [_floats(chunk) for chunk in chunks]
        if chunks and all(isinstance(chunk, np.ndarray) for chunk in chunks):
            return np.concatenate(chunks)  # a copy: models may write into what they are given
        if field.kind in ("float", "date", "timestamp"):
            dtype = _NS if field.kind != "float" else field.dtype
            return np.concatenate([_array(chunk, dtype) for chunk in chunks]) if chunks else np.empty(0, dtype)
        return [value for chunk in chunks for value in _listed(chunk)]

    def values(self, part: Part) -> Values:
        """The values of a part: an array, or a list where there are nulls that an array has no value for.

        Raises WireError, and ValueError where buffers do not hold what the field says.
        """
        if part.field.encoded is not None:
            return self._decoded(part)
        read = _READERS.get(part.field.kind)
        if read is None:
            raise WireError(
                f"column {part.field.name[:80]!r}: found the Arrow type {part.field.kind}, which is not read; cast it first"
            )
        return read(self, part)

    def _decoded(self, part: Part) -> Values:
        """Dictionary indices as the values they stand for."""
        field = part.field
        assert field.index is not None
        known = self.dictionaries.get(field.encoded if field.encoded is not None else -1)
        valid = part.valid()
        indices = numbers_of(part.buffers[1], field.index, part.rows)
        if valid is not None:
            indices = np.where(valid, indices, 0)
        if known is None and (valid is None or valid.any()):
            raise ValueError(f"no dictionary {field.encoded}")
        known = known or [None]
        if part.rows and (indices.min() < 0 or indices.max() >= len(known)):
            raise ValueError(f"an index outside of the {len(known)} values of dictionary {field.encoded}")
        self._budget.objects(part.rows, 8)
        found = list(map(known.__getitem__, indices.tolist()))
        if valid is not None:
            found = [value if is_valid else None for value, is_valid in zip(found, valid.tolist(), strict=True)]
        if field.kind in ("int", "float", "bool") and None not in found:
            return np.array(found, dtype=field.dtype or bool)
        return found

    def _nulls(self, part: Part) -> Values:
        self._budget.objects(part.rows, 8)
        return [None] * part.rows

    def _numbers(self, part: Part) -> Values:
        kind = part.field.dtype
        array = bits_of(part.buffers[1], part.rows) if kind is None else numbers_of(part.buffers[1], kind, part.rows)
        valid = part.valid()
        if array.dtype.kind == "f":
            return array if valid is None else np.where(valid, array, array.dtype.type("nan"))
        if valid is None:
            return array
        self._budget.objects(part.rows, 32 if array.dtype.itemsize > 1 else 8)
        return _masked(array.tolist(), valid)

    def _times(self, part: Part) -> Values:
        assert part.field.dtype is not None
        raw = numbers_of(part.buffers[1], part.field.dtype, part.rows).astype(np.int64)
        valid = part.valid()
        if valid is not None:
            raw = np.where(valid, raw, 0)
        limit = np.iinfo(np.int64).max // part.field.scale
        if part.rows and (raw.max() > limit or raw.min() < -limit):
            raise WireError(
                f"column {part.field.name[:80]!r}: found a time outside of the years 1678 to 2261, expected one within"
            )
        times = (raw * part.field.scale).view(_NS)
        return times if valid is None else np.where(valid, times, np.datetime64("NaT", "ns"))

    def _decimals(self, part: Part) -> Values:
        assert part.field.dtype is not None
        width, size = part.field.dtype.itemsize, part.rows
        raw = bytes(numbers_of(part.buffers[1], np.dtype("u1"), size * width))
        self._budget.objects(size, 112)
        whole = [int.from_bytes(raw[at : at + width], "little", signed=True) for at in range(0, size * width, width)]
        exact = decimal.Context(prec=100)
        return _masked([decimal.Decimal(number).scaleb(-part.field.scale, exact) for number in whole], part.valid())

    def _texts(self, part: Part) -> Values:
        bounds, data = self._bounds(part), bytes(part.buffers[2]) if part.rows else b""
        if part.rows and bounds[-1] > len(data):
            raise ValueError(f"texts of {bounds[-1]} bytes in {len(data)}")
        spans = pairwise(bounds)
        self._budget.objects(part.rows, 8)
        if "utf8" not in part.field.kind:
            return _masked([data[start:stop] for start, stop in spans], part.valid())
        if data.isascii():
            text = data.decode("ascii")
            return _masked([text[start:stop] for start, stop in spans], part.valid())
        return self._decode([data[start:stop] for start, stop in spans], part)

    def _views(self, part: Part) -> Values:
        """16 bytes a row: a length, and up to 12 bytes themselves, or a prefix, the buffer and the place in it."""
        if part.rows * 16 > len(part.buffers[1]):
            raise ValueError(f"{len(part.buffers[1])} bytes for {part.rows} views")
        valid = part.valid()
        alive = np.ones(part.rows, bool) if valid is None else valid
        raw, found = bytes(part.buffers[1]), list[bytes]()
        heads = np.frombuffer(raw, "<i4", part.rows * 4).reshape(-1, 4).tolist()
        for row, (size, _, buffer, offset) in enumerate(heads):
            size = size if alive[row] else 0
            if size <= 12:
                found.append(raw[row * 16 + 4 : row * 16 + 4 + max(size, 0)])
                continue
            data = part.buffers[2 + buffer] if 0 <= buffer < len(part.buffers) - 2 else memoryview(b"")
            if offset < 0 or offset + size > len(data):
                raise ValueError(f"a view of {size} bytes at {offset} of {len(data)}")
            self._budget.objects(1, size)
            found.append(bytes(data[offset : offset + size]))
        self._budget.objects(part.rows, 8)
        return self._decode(found, part) if part.field.kind == "utf8_view" else _masked(found, valid)

    def _decode(self, raw: list[bytes], part: Part) -> Values:
        valid = part.valid()
        found: list[str | None] = []
        for row, data in enumerate(raw):
            try:
                found.append(data.decode() if valid is None or valid[row] else None)
            except UnicodeDecodeError:
                raise WireError(
                    f"column {part.field.name[:80]!r}: expected text in UTF-8, found other bytes in row {row}"
                ) from None
        return found

    def _fixed(self, part: Part) -> Values:
        width = part.field.scale
        if part.rows * width > len(part.buffers[1]):
            raise ValueError(f"{len(part.buffers[1])} bytes for {part.rows} values of {width} bytes")
        self._budget.objects(part.rows, 8)
        raw = bytes(part.buffers[1])
        return _masked([raw[at : at + width] for at in range(0, part.rows * width, width)], part.valid())

    def _lists(self, part: Part) -> Values:
        bounds, items = self._bounds(part), self._items(part.children[0])
        if part.rows and bounds[-1] > len(items):
            raise ValueError(f"lists of {bounds[-1]} elements in {len(items)}")
        self._budget.objects(part.rows, 64)
        return _masked([items[start:stop] for start, stop in pairwise(bounds)], part.valid())

    def _fixed_lists(self, part: Part) -> Values:
        items, width = self._items(part.children[0]), part.field.scale
        if part.rows * width > len(items):
            raise ValueError(f"{part.rows} lists of {width} elements in {len(items)}")
        self._budget.objects(part.rows, 64)
        return _masked([items[row * width : (row + 1) * width] for row in range(part.rows)], part.valid())

    def _structs(self, part: Part) -> Values:
        names = [child.field.name for child in part.children]
        if len(set(names)) != len(names):
            raise WireError(f"column {part.field.name[:80]!r}: expected each field of a struct once, found {names[:5]}")
        columns = [self._items(child)[: part.rows] for child in part.children]
        if any(len(column) != part.rows for column in columns):
            raise ValueError(f"a struct of {part.rows} rows with fields of other lengths")
        self._budget.objects(part.rows, 64 + 64 * min(len(names), 1) + 24 * len(names))
        rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        return _masked(rows if names else [{} for _ in range(part.rows)], part.valid())

    def _maps(self, part: Part) -> Values:
        entries = part.children[0]
        keys, values = (self._items(child) for child in entries.children)
        self._budget.objects(min(len(keys), len(values)), 64)
        bounds, pairs = self._bounds(part), list(zip(keys, values, strict=False))
        if part.rows and bounds[-1] > len(pairs):
            raise ValueError(f"maps of {bounds[-1]} entries in {len(pairs)}")
        if any(isinstance(key, (list, dict)) for key in keys):
            raise WireError(f"column {part.field.name[:80]!r}: expected text as keys of a map, found nested values")
        self._budget.objects(part.rows, 64)
        return _masked([pairs[start:stop] for start, stop in pairwise(bounds)], part.valid())

    def _items(self, part: Part) -> list[Any]:
        values = self.values(part)
        if isinstance(values, np.ndarray):
            self._budget.objects(len(values), 8 if values.dtype.itemsize == 1 else 40)
        found = _listed(values)
        if part.field.kind == "float" and (valid := part.valid() if part.field.encoded is None else None) is not None:
            return _masked(found, valid)
        return found

    def _bounds(self, part: Part) -> list[int]:
        """Offsets [rows + 1], which never fall. Raises ValueError."""
        if not part.rows:
            return []
        wide = part.field.kind.startswith("large")
        offsets = numbers_of(part.buffers[1], _LARGE if wide else _SMALL, part.rows + 1)
        if offsets[0] < 0 or (offsets[1:] < offsets[:-1]).any():
            raise ValueError("offsets that fall")
        self._budget.objects(part.rows, 16)
        found: list[int] = offsets.tolist()
        return found

    def remember(self, number: int, part: Part, more: bool) -> None:
        """Keeps a dictionary's values for the batches after it; *more* of them are put behind those known."""
        values = self._items(part)
        self.dictionaries[number] = [*self.dictionaries.get(number, []), *values] if more else values


_READERS: Mapping[str, Callable[[Reader, Part], Values]] = {
    "null": Reader._nulls,
    **dict.fromkeys(("int", "float", "bool"), Reader._numbers),
    **dict.fromkeys(("date", "timestamp"), Reader._times),
    "decimal": Reader._decimals,
    **dict.fromkeys(("utf8", "large_utf8", "binary", "large_binary"), Reader._texts),
    **dict.fromkeys(("utf8_view", "binary_view"), Reader._views),
    "fixed_size_binary": Reader._fixed,
    **dict.fromkeys(("list", "large_list"), Reader._lists),
    "fixed_size_list": Reader._fixed_lists,
    "struct": Reader._structs,
    "map": Reader._maps,
}


def _masked(values: list[Any], valid: np.ndarray | None) -> list[Any]:
    if valid is None:
        return values
    return [value if is_valid else None for value, is_valid in zip(values, valid.tolist(), strict=True)]


def _listed(values: Values) -> list[Any]:
    """Python's own values; times stay numpy's, and one that is missing is None."""
    if isinstance(values, list):
        return values
    if values.dtype.kind == "M":
        return [None if np.isnat(value) else value for value in values]
    found: list[Any] = values.tolist()
    return found


def _array(values: Values, dtype: Any) -> np.ndarray:
    """A list with None for null as an array with NaN or NaT."""
    if isinstance(values, np.ndarray):
        return values
    return np.array([np.datetime64("NaT") if v is None and dtype == _NS else v for v in values], dtype=dtype)


def _floats(values: Values) -> np.ndarray:
    return np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)
