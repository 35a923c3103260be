"""NumPy's NPY format: an array as a request and as an answer. Never pickles.

https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, versions 1 to 3. A request is [rows, columns] in
the signature's order, a structured array with the columns by name, or the tensor of a model over one tensor.
"""

from __future__ import annotations

import ast
import math
import re
import struct
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from bentos.serving.inputs.plan import InputPlan
from bentos.serving.inputs.rows import InputRows
from bentos.serving.model.interface import Prediction
from bentos.serving.wire.interface import Body, NotAcceptableError, WireError

MEDIA_TYPE = "application/x-npy"
_MAGIC = b"\x93NUMPY"
_LONGEST = 64 << 10
_DEEPEST = 6
_LARGEST = 1 << 40
_REMEMBERED = 256
# Only such text is given to Python's parser: no operators, no long numbers, no calls.
_TOKENS = re.compile(r"(?:'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"|\d{1,15}|True|False|[()\[\]{},:\s])*")
_BRACKETS = re.compile(r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"|([(\[{])|([)\]}])")
_DTYPE = re.compile(
    r"[<>=|]?(?:b1|[iu][1248]|f(?:2|4|8|16)|S[1-9]\d{0,8}|U[1-9]\d{0,8}|M8(?:\[\d{0,5}[a-zA-Z]{1,2}\])?)"
)
_PADDING = re.compile(r"\|?V\d{1,9}")


class _Header(NamedTuple):
    dtype: np.dtype[Any]
    fortran: bool
    shape: tuple[int, ...]
    size: int  # bytes of data


def decode(body: bytes, plan: InputPlan) -> InputRows:
    """The rows of an NPY body as *plan* wants them. Raises WireError and InputError."""
    array = read(body)
    if plan.uniform is not None and array.dtype == plan.uniform and array.shape[1:] == (len(plan.keys),):
        return plan.whole(np.array(array, order="C"))  # a copy: models may write into what they are given
    if array.dtype.names is not None:
        if array.ndim != 1:
            raise WireError(f"NPY: expected one record a row, found a structured array of shape {list(array.shape)}")
        return plan.coerce({name: _native(array[name]) for name in array.dtype.names})
    if not array.ndim:
        raise WireError("NPY: expected an array with one element a row, found a single value")
    return plan.coerce(_native(array))


def read(body: bytes) -> np.ndarray:
    """The array in *body*, a read-only view of it. Raises WireError."""
    start = _start(body)
    header = _parse(body[:start])
    if len(body) - start != header.size:
        raise WireError(
            f"NPY: expected {header.size} bytes for {header.dtype} {list(header.shape)}, found {len(body) - start}"
        )
    flat = np.frombuffer(body, header.dtype, offset=start) if header.size else np.empty(0, header.dtype)
    return flat.reshape(header.shape, order="F" if header.fortran else "C")


def encode(prediction: Prediction) -> Body:
    """The answer as one array, texts as ``U``. Raises NotAcceptableError for named outputs and for other objects."""
    values = prediction.values
    if not isinstance(values, np.ndarray):
        raise NotAcceptableError(
            "the model answers several outputs by name, which NPY cannot hold; ask for application/json"
        )
    if values.dtype.kind == "O":
        items = values.tolist()
        if values.ndim != 1 or not all(type(item) is str for item in items):
            raise NotAcceptableError(
                "the model answers objects, which NPY holds as pickles only; ask for application/json"
            )
        values = np.array(items, dtype=np.str_)
    if values.dtype.kind not in "biufUSM" or not values.dtype.itemsize:
        raise NotAcceptableError(
            f"the model answers {values.dtype}, which is not written as NPY; ask for application/json"
        )
    return Body(_head(values.dtype.str, values.shape) + values.tobytes(), MEDIA_TYPE)


@lru_cache(_REMEMBERED)
def _head(descr: str, shape: tuple[int, ...]) -> bytes:
    """Version 1, the data on 64 bytes."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    length = len(text) + 1 + -(10 + len(text) + 1) % 64
    return _MAGIC + b"\x01\x00" + struct.pack("<H", length) + text.ljust(length - 1) + b"\n"


def _start(body: bytes) -> int:
    """Where the data begins."""
    if body[:6] != _MAGIC or len(body) < 12:
        raise WireError("NPY: expected an array that begins with \\x93NUMPY, as numpy.save writes it")
    if body[6] == 1:
        start = 10 + struct.unpack_from("<H", body, 8)[0]
    elif body[6] in (2, 3):
        start = 12 + struct.unpack_from("<I", body, 8)[0]
    else:
        raise WireError(f"NPY: expected version 1, 2 or 3 of the format, found {body[6]}.{body[7]}")
    if start > min(len(body), _LONGEST):
        raise WireError(
            f"NPY: expected a header of at most {_LONGEST} bytes within the body, found one up to byte {start}"
        )
    return int(start)


@lru_cache(_REMEMBERED)  # parsing one takes longer than a small model's predict; clients send few
def _parse(head: bytes) -> _Header:
    try:
        text = head[10 if head[6] == 1 else 12 :].decode("latin-1" if head[6] < 3 else "utf-8")
        fields = _literal(text)
        if not isinstance(fields, dict) or fields.keys() != {"descr", "fortran_order", "shape"}:
            raise ValueError("the fields descr, fortran_order and shape")
        dtype, shape = _dtype(fields["descr"]), fields["shape"]
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise WireError(f"NPY: expected a header as numpy writes it, found one without {str(error)[:120]}") from None
    fits = isinstance(shape, tuple) and len(shape) <= 32 and all(type(length) is int for length in shape)
    if not fits or not isinstance(fields["fortran_order"], bool) or math.prod(shape) * dtype.itemsize >= _LARGEST:
        raise WireError(f"NPY: expected a shape and an order in its header, found {text[:120]!r}")
    if 0 in shape:
        raise WireError(f"NPY: expected at least one row and column, found the shape {list(shape)}")
    return _Header(dtype, fields["fortran_order"], shape, math.prod(shape) * dtype.itemsize)


def _literal(text: str) -> Any:
    """The value that a header's text is written as. Raises ValueError and SyntaxError."""
    if not _TOKENS.fullmatch(text):
        raise ValueError("anything but names, numbers, texts and brackets")
    depth = 0
    for bracket in _BRACKETS.finditer(text):
        depth += bool(bracket[1]) - bool(bracket[2])
        if depth > _DEEPEST:
            raise ValueError("brackets deeper than a header's")
    return ast.literal_eval(text.strip())


def _dtype(descr: Any) -> np.dtype[Any]:
    """A plain dtype, or one of plain fields by name. Raises WireError and ValueError."""
    if isinstance(descr, str):
        if not _DTYPE.fullmatch(descr):
            raise WireError(f"NPY: expected numbers, booleans, texts or datetimes, found the dtype {descr[:40]!r}")
        return np.dtype(descr)
    if not isinstance(descr, list) or not all(isinstance(field, tuple) and len(field) == 2 for field in descr):
        raise ValueError("a dtype of numbers, or of plain fields with names")
    names, formats, offsets, at = list[str](), list[np.dtype[Any]](), list[int](), 0
    for name, kind in descr:
        if name == "" and isinstance(kind, str) and _PADDING.fullmatch(kind):
            at += int(kind.lstrip("|V"))
            continue
        name = name[-1] if isinstance(name, tuple) and len(name) == 2 else name  # a title before the name
        if not isinstance(name, str) or not isinstance(kind, str) or not name or name in names:
            raise ValueError("plain fields, each with a name of its own")
        names.append(name)
        formats.append(_dtype(kind))
        offsets.append(at)
        at += formats[-1].itemsize
    if not names:
        raise ValueError("any field")
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": at})


def _native(array: np.ndarray) -> np.ndarray:
    """A column, or a matrix, in this machine's byte order, its values sound: what numpy takes on trust. Raises WireError."""
    kind = array.dtype.kind
    if kind == "b":
        return array.view("u1").astype(bool)
    if kind == "U":
        points = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("="), copy=False).view("u4")
        if (points > 0x10FFFF).any() or ((points >= 0xD800) & (points <= 0xDFFF)).any():
            raise WireError("NPY: expected Unicode texts, found code points that are none")
        return array.astype(object)  # Python's own texts, as every other format has them
    if kind == "M" and array.dtype != np.dtype("datetime64[ns]"):
        return _nanoseconds(array)
    return array.astype(array.dtype.newbyteorder("="))


def _nanoseconds(array: np.ndarray) -> np.ndarray:
    """Times in nanoseconds, which numpy would let wrap around silently."""
    if np.datetime_data(array.dtype)[0] == "generic":
        raise WireError("NPY: expected datetimes with a unit, as datetime64[ns], found none")
    times = array.astype(array.dtype.newbyteorder("="))
    years = times.astype("datetime64[Y]").astype(np.int64) + 1970
    if (~np.isnat(times) & ((years < 1678) | (years > 2261))).any():
        raise WireError("NPY: expected times within the years 1678 to 2261, found one outside")
    return times.astype("datetime64[ns]")
