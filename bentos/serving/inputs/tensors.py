"""One tensor made to fit its dtype and shape, or the reason why it cannot."""

from __future__ import annotations

from typing import Any

import numpy as np

from bentos.serving.inputs.mismatch import ValueMismatch


def fit_tensor(values: Any, dtype: str, shape: tuple[int, ...], *, flat: bool = False) -> np.ndarray:
    """``values`` (array or nested lists) as an array of ``dtype`` and ``shape``, where -1 fits any length.

    A conversion that would change a number is refused (doubles may round to floats). With ``flat``, rows that come as
    scalars or flattened lists, as in a data frame's column, take the shape in C order. Raises ValueMismatch.
    """
    array = as_array(values)
    target = np.dtype(dtype)
    if target.kind == "O" and shape == (-1,):
        return array
    if (
        flat
        and array.ndim
        and -1 not in shape[1:]
        and len(shape) != array.ndim
        and array.size == len(array) * int(np.prod(shape[1:]))
    ):
        array = array.reshape(len(array), *shape[1:])
    if array.ndim != len(shape) or any(want not in (-1, have) for want, have in zip(shape, array.shape, strict=True)):
        raise ValueMismatch(f"shape {list(array.shape)}")
    return _cast(array, target)


def as_array(values: Any) -> np.ndarray:
    """Nested lists, or an object array of equal rows, as one rectangular array. Raises ValueMismatch if they are ragged."""
    try:
        if isinstance(values, np.ndarray) and values.dtype == object and len(values):
            first = values.flat[0]
            return np.array(values.tolist()) if isinstance(first, (list, np.ndarray)) else values
        return np.asarray(values)
    except ValueError:
        raise ValueMismatch("rows of different lengths") from None


def _cast(array: np.ndarray, target: np.dtype) -> np.ndarray:
    if array.dtype == target or (array.dtype.kind == target.kind and target.kind in "US"):
        return array
    if target.kind in "OUS":
        if array.dtype.kind not in "OUS":
            raise ValueMismatch(f"dtype {array.dtype}")
        return array.astype(target)
    if array.dtype.kind == "O":
        array = _inferred(array)
    if (array.dtype.kind == "b") != (target.kind == "b") or array.dtype.kind not in "biufc":
        raise ValueMismatch(f"dtype {array.dtype}")
    with np.errstate(invalid="ignore", over="ignore"):
        out = array.astype(target)
    rounded = array.dtype.kind == "f" and target.kind == "f"
    changed = (np.isinf(out) & np.isfinite(array)) if rounded else (out != array)
    if target.kind in "iufc" and changed.any() and not (target.kind == "f" and array.dtype.kind in "iu"):
        raise ValueMismatch(f"{array[changed].flat[0]} of dtype {array.dtype}")
    return out


def _inferred(array: np.ndarray) -> np.ndarray:
    inferred = np.array(array.tolist())
    if inferred.dtype == object:
        if any(not (v is None or isinstance(v, (int, float, np.number))) for v in array.flat):
            raise ValueMismatch("dtype object")
        inferred = inferred.astype(np.float64)
    return inferred
