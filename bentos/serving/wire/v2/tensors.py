"""One tensor of the Open Inference Protocol: JSON or raw bytes in, and back.

https://github.com/open-inference/open-inference-protocol and Triton's binary tensor data extension. Raw tensors are
little endian in row-major order; BYTES elements are each preceded by their length as u32.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Container
from itertools import chain
from typing import Any

import numpy as np
import orjson

from bentos.serving.inputs.scalars import objects
from bentos.serving.wire.interface import WireError, kind_of

DTYPES = {
    "BOOL": np.dtype("bool"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype("O"),
}
NAMES = {dtype: name for name, dtype in DTYPES.items() if name != "BYTES"}
_LENGTH = struct.Struct("<I")
_OBJECTS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
_LARGEST = 1 << 40


def check_tensor(name: Any, datatype: Any, shape: Any, known: Container[str], where: str) -> tuple[int, ...]:
    """The shape of a tensor whose *name* is none of the *known* ones and whose *datatype* is of the protocol. Raises WireError."""
    if not isinstance(name, str) or name in known:
        raise WireError(f"{where}.name: expected a name of its own, found {str(name)[:80]!r}")
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise WireError(f"{where}.datatype: expected one of {', '.join(DTYPES)}, found {str(datatype)[:80]!r}")
    return check_shape(shape, where)


def check_shape(shape: Any, where: str) -> tuple[int, ...]:
    """*shape* as a tuple of lengths ≥ 0. Raises WireError."""
    if (
        not isinstance(shape, list)
        or not all(type(length) is int and 0 <= length < _LARGEST for length in shape)
        or len(shape) > 32
        or math.prod(filter(None, shape)) >= _LARGEST  # numpy holds the others' product to a limit beside a 0 too
    ):
        raise WireError(f"{where}.shape: expected an array of lengths ≥ 0, found {str(shape)[:80]}")
    return tuple(shape)


def from_json(data: Any, datatype: str, shape: tuple[int, ...], where: str) -> np.ndarray:
    """A tensor from its JSON *data*, flat or nested. BYTES are texts. Raises WireError."""
    if not isinstance(data, list):
        raise WireError(f"{where}.data: expected an array, found {kind_of(data)}")
    flat = _flatten(data, shape, where)
    if len(flat) != math.prod(shape):
        raise WireError(
            f"{where}.data: expected {math.prod(shape)} elements for shape {list(shape)}, found {len(flat)}"
        )
    if datatype == "BYTES":
        return _texts(flat, where).reshape(shape)
    return _numbers(flat, datatype, where).reshape(shape)


def _flatten(data: list[Any], shape: tuple[int, ...], where: str) -> list[Any]:
    depth = 0
    while data and isinstance(data[0], list):
        depth += 1
        lengths = {len(row) if isinstance(row, list) else -1 for row in data}
        if depth >= len(shape) or lengths != {shape[depth]}:
            raise WireError(f"{where}.data: expected arrays nested as the shape {list(shape)} says, or one flat array")
        data = list(chain.from_iterable(data))
    return data


def _texts(flat: list[Any], where: str) -> np.ndarray:
    out = np.empty(len(flat), dtype=object)
    for number, value in enumerate(flat):
        if not isinstance(value, str):
            raise WireError(f"{where}.data[{number}]: expected a string for BYTES, found {kind_of(value)}")
        out[number] = value
    return out


def _numbers(flat: list[Any], datatype: str, where: str) -> np.ndarray:
    dtype = DTYPES[datatype]
    kinds: dict[str, set[type]] = {"b": {bool}, "f": {int, float, type(None)}}
    allowed = kinds.get(dtype.kind, {int})
    if not set(map(type, flat)) <= allowed:
        number = next(i for i, value in enumerate(flat) if type(value) not in allowed)
        raise WireError(f"{where}.data[{number}]: expected a value of {datatype}, found {kind_of(flat[number])}")
    try:
        with np.errstate(over="ignore"):
            return np.array(flat, dtype=dtype)
    except (OverflowError, ValueError, TypeError):
        raise WireError(f"{where}.data: a number is out of the range of {datatype}") from None


def from_bytes(raw: memoryview, datatype: str, shape: tuple[int, ...], where: str) -> np.ndarray:
    """A tensor from its raw bytes; BYTES elements stay bytes. Raises WireError."""
    count = math.prod(shape)
    if datatype == "BYTES":
        return _split_bytes(raw, count, where).reshape(shape)
    dtype = DTYPES[datatype]
    if len(raw) != count * dtype.itemsize:
        raise WireError(
            f"{where}: expected {count * dtype.itemsize} bytes for {datatype} {list(shape)}, found {len(raw)}"
        )
    if datatype == "BOOL":
        return np.frombuffer(raw, dtype=np.uint8).astype(bool).reshape(shape)
    return np.frombuffer(raw, dtype=dtype).reshape(shape)


def _split_bytes(raw: memoryview, count: int, where: str) -> np.ndarray:
    parts, at = [], 0
    while at + 4 <= len(raw):
        (length,) = _LENGTH.unpack_from(raw, at)
        if at + 4 + length > len(raw):
            break
        parts.append(bytes(raw[at + 4 : at + 4 + length]))
        at += 4 + length
    if at != len(raw) or len(parts) != count:
        raise WireError(
            f"{where}: expected {count} BYTES elements, each after its length as u32, found {len(parts)} and {len(raw) - at} bytes more"
        )
    return objects(parts)


def datatype_of(array: np.ndarray) -> tuple[str, np.ndarray]:
    """The protocol's name for *array*'s type, and the array in that type: texts, bytes and times become BYTES."""
    if (name := NAMES.get(array.dtype.newbyteorder("<"))) is not None:
        return name, array
    if array.dtype.kind in "iuf":  # longdouble and the like
        return "FP64", array.astype("<f8")
    if array.dtype.kind == "M":
        return "BYTES", np.datetime_as_string(array).astype(object)
    if array.dtype.kind == "O":
        kinds = {type(value) for value in array.ravel()}
        if kinds and kinds <= {bool, np.bool_}:
            return "BOOL", array.astype(bool)
        if kinds and kinds <= {int, float, type(None)} and kinds & {int, float}:
            return "FP64", array.astype("<f8")
    return "BYTES", array.astype(object)


def to_json(array: np.ndarray, datatype: str) -> Any:
    """*array* flat, as orjson writes it; NaN and infinities become null."""
    flat = array.reshape(-1)
    if datatype == "BYTES":
        return [value.decode("utf-8", "replace") if isinstance(value, bytes) else _text(value) for value in flat]
    return (
        flat.tolist() if flat.dtype == np.float16 else np.ascontiguousarray(flat.astype(DTYPES[datatype], copy=False))
    )


def to_bytes(array: np.ndarray, datatype: str) -> bytes:
    """*array* raw."""
    if datatype != "BYTES":
        return array.astype(DTYPES[datatype], copy=False).tobytes()
    parts = [as_bytes(value) for value in array.reshape(-1)]
    return b"".join(part for value in parts for part in (_LENGTH.pack(len(value)), value))


def as_bytes(value: Any) -> bytes:
    """An element of BYTES."""
    return value if isinstance(value, bytes) else _text(value).encode()


def _text(value: Any) -> str:
    """Texts as they are, null as none; records and arrays as JSON."""
    if isinstance(value, dict | list | tuple | np.ndarray):
        return orjson.dumps(value, default=_plain, option=_OBJECTS).decode()
    return "" if value is None else str(value)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
