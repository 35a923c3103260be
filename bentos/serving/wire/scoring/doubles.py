"""JSON straight into one array, for models over doubles: columns that all are, or one tensor [rows, columns] of doubles
or floats. Every other body takes the general way.

Bodies that msgspec's typed decoders accept become lists of floats and from there one array; no value is looked at in
Python. Whatever does not fit (a text, a missing column, a torn row, params) gives None: the general decoder reads the body
again, and says what is wrong where something is. What is read here is what the general decoder would have made of it.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any

import msgspec
import numpy as np

from bentos.serving.inputs.plan import InputPlan
from bentos.serving.inputs.rows import InputRows
from bentos.serving.inputs.signature import Tensor

_Cell = float | None
# orders of columns; clients send few. A dictionary of its own: functools.lru_cache takes 1.7 times as long to answer
_REMEMBERED = 256
_LONGEST = 16384  # characters of names in an order that is remembered


class _Split(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    data: list[list[_Cell]]
    columns: list[str] | None = None


class _Scoring(msgspec.Struct, gc=False):
    """MLflow's scoring protocol; exactly one of the first four is given."""

    dataframe_split: _Split | msgspec.UnsetType = msgspec.UNSET
    dataframe_records: list[dict[str, _Cell]] | msgspec.UnsetType = msgspec.UNSET
    instances: list[list[_Cell] | dict[str, _Cell]] | msgspec.UnsetType = msgspec.UNSET
    inputs: list[list[_Cell]] | dict[str, list[_Cell]] | msgspec.UnsetType = msgspec.UNSET
    params: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Tensor(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    name: str
    shape: list[int]
    datatype: str
    data: list[list[_Cell] | float | None]


class _Infer(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What of the Open Inference Protocol asks for the default outputs as JSON."""

    inputs: list[_Tensor]
    id: str = ""


_UNSET = msgspec.UNSET
_scoring = msgspec.json.Decoder(_Scoring).decode
_infer = msgspec.json.Decoder(_Infer).decode
_MISFITS = (msgspec.DecodeError, ValueError, TypeError, LookupError, StopIteration, RecursionError)


class Doubles:
    """Reads JSON bodies for one plan. Make it with ``of``."""

    def __init__(self, plan: InputPlan) -> None:
        self._plan = plan
        self._keys = plan.keys
        self._names = list(plan.keys)
        self._width = len(plan.keys)
        self._pick = itemgetter(*plan.keys) if plan.keys else None
        self._orders: dict[tuple[str, ...], Any] = {plan.keys: None}
        self._tensor = plan.tensors[0] if plan.tensors else None

    @staticmethod
    def of(plan: InputPlan) -> Doubles | None:
        """The reader for *plan*; None unless it is over two or more columns of doubles with names, or over one tensor."""
        if plan.tensors:
            only = plan.tensors[0]
            fits = len(plan.tensors) == 1 and only.dtype in ("float64", "float32")
            return Doubles(plan) if fits and len(only.shape) == 2 and only.shape[0] == -1 else None
        fits = plan.uniform == np.float64 and len(plan.columns) > 1 and all(column.name for column in plan.columns)
        return Doubles(plan) if fits else None

    def scoring(self, body: bytes) -> InputRows | None:
        """The rows of a body of MLflow's scoring protocol without params, or None."""
        try:
            found = _scoring(body)
            split, records, instances, inputs = (
                found.dataframe_split,
                found.dataframe_records,
                found.instances,
                found.inputs,
            )
            if found.params is not _UNSET:
                return None
            if split is not _UNSET:
                alone = records is _UNSET and instances is _UNSET and inputs is _UNSET
                return self._split(split) if alone else None
            given = [value for value in (records, instances, inputs) if value is not _UNSET]
            return self._rows(given[0]) if len(given) == 1 else None
        except _MISFITS:
            return None

    def infer(self, body: bytes) -> tuple[InputRows, str] | None:
        """The rows of a JSON body of the Open Inference Protocol and its id, or None."""
        try:
            found = _infer(body)
            arrays = {tensor.name: _array(tensor) for tensor in found.inputs}
            if len(arrays) != len(found.inputs):
                return None
            name, only = next(iter(arrays.items()))
            if len(arrays) == 1 and only.ndim == 2 and self._may_be_called(name):
                return self._whole(only), found.id
            if self._pick is None:
                return None
            columns = self._pick(arrays)
            if len(arrays) != self._width or any(a.ndim != 1 and a.shape[1:] != (1,) for a in columns):
                return None
            return self._whole(np.ascontiguousarray(np.column_stack(columns))), found.id
        except _MISFITS:
            return None

    def _may_be_called(self, name: str) -> bool:
        """Whether the matrix of all columns, or the only tensor, goes by *name*; ``v2.rest`` says which names these are."""
        return name not in self._keys if self._tensor is None else self._tensor.name in (None, name)

    def _split(self, given: _Split) -> InputRows:
        columns = given.columns
        if self._pick is None:
            raise ValueError
        matrix = np.array(given.data, dtype=np.float64)
        if columns is None or columns == self._names or (order := self._order(tuple(columns))) is None:
            return self._whole(matrix)
        if matrix.ndim != 2 or matrix.shape[1] != len(columns):
            raise ValueError
        return self._whole(np.ascontiguousarray(matrix[:, order]))

    def _rows(self, given: Any) -> InputRows:
        if self._pick is None:
            if type(given) is not list or type(given[0]) is not list:
                raise ValueError
            return self._whole(np.array(given, dtype=np.float64))
        if type(given) is dict:
            return self._whole(np.ascontiguousarray(np.array(self._pick(given), dtype=np.float64).T))
        if type(given[0]) is dict:
            given = [self._pick(row) for row in given]
        return self._whole(np.array(given, dtype=np.float64))

    def _whole(self, matrix: np.ndarray) -> InputRows:
        """The rows of a C-contiguous *matrix*. Raises ValueError."""
        if self._tensor is not None:
            return _one_tensor(matrix, self._tensor)
        if matrix.ndim != 2 or matrix.shape[1] != self._width:
            raise ValueError
        return self._plan.whole(matrix)

    def _order(self, columns: tuple[str, ...]) -> Any:
        """Where in a row the plan's columns lie; None where they lie as in the plan. Raises KeyError."""
        try:
            return self._orders[columns]
        except KeyError:
            at = {name: position for position, name in enumerate(columns)}
            if len(at) != len(columns):
                raise
            order = np.array([at[key] for key in self._keys])
            if len(columns) <= 2 * self._width and sum(map(len, columns)) <= _LONGEST:
                if len(self._orders) >= _REMEMBERED:
                    self._orders.clear()
                self._orders[columns] = order
            return order


def _one_tensor(matrix: np.ndarray, tensor: Tensor) -> InputRows:
    """Raises ValueError where *matrix* [rows x columns] of doubles has not the tensor's shape, or a double is no float."""
    if matrix.ndim != 2 or tensor.shape[1] not in (-1, matrix.shape[1]):
        raise ValueError
    array = matrix
    if tensor.dtype == "float32":
        with np.errstate(over="ignore"):
            array = matrix.astype(np.float32)
        if (np.isinf(array) & np.isfinite(matrix)).any():
            raise ValueError
    return InputRows(len(array), None, {tensor.name or "": array})


def _array(tensor: _Tensor) -> np.ndarray:
    """The tensor, flat or nested as its shape says. Raises ValueError."""
    shape = tuple(tensor.shape)
    array = np.array(tensor.data, dtype=np.float64)
    if tensor.datatype != "FP64" or (array.ndim > 1 and array.shape != shape) or min(shape) < 1:
        raise ValueError
    return array.reshape(shape)
