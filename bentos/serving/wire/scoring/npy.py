"""NumPy's NPY format: an array as a request and as an answer. Never pickles.

https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, versions 1 to 3. A request is [rows, columns] in
the signature's order, a structured array with the columns by name, or the tensor of a model over one tensor.
"""

from __future__ import annotations

import io
import math
import re
from functools import lru_cache
from itertools import accumulate
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.lib import format as numpy_format

from bentos.serving.inputs.plan import InputPlan
from bentos.serving.inputs.rows import InputRows
from bentos.serving.model.interface import Prediction
from bentos.serving.wire.interface import Body, NotAcceptableError, WireError

MEDIA_TYPE = "application/x-npy"
_LONGEST = 64 << 10
_REMEMBERED = 256  # headers: reading one takes longer than a small model's predict; clients send few
_DEEPEST = 6
# numpy gives a header to Python's parser: only what is so written may go there. No operators, calls, or long numbers.
_TEXT = rb"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\""
_HEADER = re.compile(rb"(?:%b|True|False|[\d()\[\]{},:\s])*" % _TEXT)


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
    version = int(body[6]) if body[:6] == numpy_format.MAGIC_PREFIX and len(body) >= 12 else 0
    if version not in (1, 2, 3):
        raise WireError(
            "NPY: expected an array that begins with \\x93NUMPY and version 1, 2 or 3, as numpy.save writes it"
        )
    text = 10 if version == 1 else 12
    start = text + int.from_bytes(body[8:text], "little")
    if start > min(len(body), _LONGEST):
        raise WireError(f"NPY: expected a header of at most {_LONGEST} bytes in the body, found one up to byte {start}")
    shape, fortran, dtype = _header(body[text:start], "latin-1" if version < 3 else "utf-8")
    size = math.prod(shape) * dtype.itemsize
    if len(body) - start != size:
        raise WireError(f"NPY: expected {size} bytes for {dtype} {list(shape)}, found {len(body) - start}")
    return np.frombuffer(body, dtype, offset=start).reshape(shape, order="F" if fortran else "C")


def encode(prediction: Prediction) -> Body:
    """The answer as one array, texts as ``U``. Raises NotAcceptableError for named outputs and for other objects."""
    values = prediction.values
    if isinstance(values, np.ndarray) and values.dtype.kind == "O" and values.ndim == 1:
        values = np.array(items) if set(map(type, items := values.tolist())) == {str} else values
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biufUSM" or not values.dtype.itemsize:
        found = f"an array of {values.dtype}" if isinstance(values, np.ndarray) else "several outputs by name"
        raise NotAcceptableError(f"the model answers {found}, which NPY does not hold; ask for application/json")
    return Body(_written(values.dtype.str, values.shape) + values.tobytes(), MEDIA_TYPE)


@lru_cache(_REMEMBERED)
def _written(descr: str, shape: tuple[int, ...]) -> bytes:
    sink = io.BytesIO()
    numpy_format.write_array_header_1_0(sink, {"descr": descr, "fortran_order": False, "shape": shape})
    return sink.getvalue()


@lru_cache(_REMEMBERED)
def _header(text: bytes, encoding: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and dtype. Raises WireError."""
    bare = re.sub(_TEXT, b" ", text) if _HEADER.fullmatch(text) else None
    depths = accumulate((byte in b"([{") - (byte in b")]}") for byte in bare or b"")
    if bare is None or re.search(rb"\d{16}", bare) or max(depths, default=0) > _DEEPEST:
        raise WireError("NPY: expected a header of names, numbers, texts and few brackets, found another")
    try:  # as version 2 has it, for numpy has no public reader of 3
        latin = text.decode(encoding).encode("latin-1", "backslashreplace")
        file = io.BytesIO(len(latin).to_bytes(4, "little") + latin)
        shape, fortran, dtype = numpy_format.read_array_header_2_0(file, max_header_size=len(latin))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, TokenError) as error:
        raise WireError(f"NPY: expected a header as numpy writes it, found another: {str(error)[:160]}") from None
    if len(shape) > 32 or not all(type(length) is int and length > 0 for length in shape):
        raise WireError(f"NPY: expected at least one row and column, found the shape {list(shape)[:33]}")
    plain = [dtype] if dtype.names is None else [dtype[name] for name in dtype.names]
    if not plain or not all(kind.kind in "biufUSM" and kind.itemsize for kind in plain):
        raise WireError(f"NPY: expected numbers, booleans, texts or datetimes, found the dtype {dtype!s:.120}")
    return shape, fortran, dtype


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
    native = array.astype(array.dtype.newbyteorder("="))
    if kind != "M":
        return native
    if np.datetime_data(array.dtype)[0] == "generic":
        raise WireError("NPY: expected datetimes with a unit, as datetime64[ns], found none")
    years = native.astype("datetime64[Y]").astype(np.int64) + 1970
    if (~np.isnat(native) & ((years < 1678) | (years > 2261))).any():  # which numpy would let wrap around silently
        raise WireError("NPY: expected times within the years 1678 to 2261, found one outside")
    return native.astype("datetime64[ns]")
