"""InputRows: inputs that fit the signature, in whichever form a model takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bentos.serving.inputs.mismatch import is_null

if TYPE_CHECKING:
    import pandas as pd

_LARGEST = float(np.finfo(np.float32).max)


class InputRows:
    """Checked inputs of ``rows`` rows: columns in the signature's order, or tensors by name (an unnamed one under "").

    Exactly one of ``columns`` and ``tensors`` is set. ``labels`` are the names that frames carry; ``absent`` those of the
    optional columns that were not given and are held here as nulls. Columns of one number type may be given as *whole*,
    one C-contiguous array [rows x columns] named by *keys*; ``columns`` are then views of it, made when asked for.
    """

    __slots__ = ("_columns", "_keys", "_whole", "absent", "labels", "rows", "tensors")

    def __init__(
        self,
        rows: int,
        columns: dict[str, np.ndarray] | None = None,
        tensors: dict[str, np.ndarray] | None = None,
        labels: tuple[str | int, ...] = (),
        absent: frozenset[str | int] = frozenset(),
        *,
        whole: np.ndarray | None = None,
        keys: tuple[str, ...] = (),
    ) -> None:
        self.rows = rows
        self.tensors = tensors
        self.labels = labels
        self.absent = absent
        self._columns = columns
        self._whole = whole
        self._keys = keys

    @property
    def columns(self) -> dict[str, np.ndarray] | None:
        """Name → array [rows]; None where the inputs are tensors."""
        if self._columns is None and self._whole is not None:
            self._columns = dict(zip(self._keys, self._whole.T, strict=True))
        return self._columns

    def frame(self, *, absent: bool = True) -> pd.DataFrame:
        """The columns as a data frame; without the columns that were not given if ``absent`` is false, as MLflow does."""
        import pandas as pd

        if self._whole is not None or self._alike():
            frame = pd.DataFrame(self._block().T, columns=pd.Index(self.labels), copy=False)
        else:
            frame = pd.DataFrame(dict(zip(self.labels, self._arrays(), strict=True)))
        return frame if absent or not self.absent else frame.drop(columns=list(self.absent))

    def array(self) -> np.ndarray:
        """One array: the only tensor, or the columns as [rows x columns] of their common type (object if there is none).

        It lies in memory as pandas lays a frame out, column after column, so that a model sees the same bits either way.
        """
        return next(iter(self.tensors.values())) if self.tensors is not None else self._block().T

    def matrix(self, dtype: Any) -> np.ndarray:
        """One C-contiguous array of *dtype*: the only tensor, or the columns as [rows x columns]; columns are numbers.

        Doubles too large for a narrower *dtype* become infinities.
        """
        if self._whole is not None and self._whole.dtype == dtype:
            return self._whole
        with np.errstate(over="ignore"):
            if self.tensors is not None or self._whole is not None:
                return np.ascontiguousarray(self.array() if self._whole is None else self._whole, dtype=dtype)
            if self._alike():
                return np.ascontiguousarray(self._block().T, dtype=dtype)
            out = np.empty((self.rows, len(self.labels)), dtype=dtype)
            for number, array in enumerate(self._arrays()):
                out[:, number] = array
            return out

    @property
    def numeric(self) -> bool:
        """Whether every column is of numbers or booleans, so that ``array`` says all that ``frame`` does."""
        return self._whole is not None or all(array.dtype.kind in "biuf" for array in self._arrays())

    @property
    def usual(self) -> bool:
        """Whether every value is there, and every number one that a float32 holds: many models take no others."""
        arrays = [self._whole] if self._whole is not None else [*(self.tensors or self.columns or {}).values()]
        return all(_usual(array) for array in arrays)

    def slice(self, start: int, stop: int) -> InputRows:
        """Rows from ``start`` up to ``stop``."""
        stop = min(stop, self.rows)
        if self._whole is not None:
            return InputRows(stop - start, labels=self.labels, whole=self._whole[start:stop], keys=self._keys)
        columns = {k: v[start:stop] for k, v in self.columns.items()} if self.columns is not None else None
        tensors = {k: v[start:stop] for k, v in self.tensors.items()} if self.tensors is not None else None
        return InputRows(stop - start, columns, tensors, self.labels, self.absent)

    @staticmethod
    def join(parts: Sequence[InputRows]) -> InputRows:
        """The rows of ``parts`` after one another; they come from one plan and have equal ``absent`` and tensor widths.

        Raises ValueError if tensors differ in the lengths of their other dimensions.
        """
        first = parts[0]
        if len(parts) == 1:
            return first
        rows = sum(part.rows for part in parts)
        wholes = [part._whole for part in parts if part._whole is not None]
        if len(wholes) == len(parts):
            return InputRows(rows, labels=first.labels, whole=np.concatenate(wholes), keys=first._keys)
        if first.columns is not None:
            columns = {k: np.concatenate([part.columns[k] for part in parts if part.columns]) for k in first.columns}
            return InputRows(rows, columns, None, first.labels, first.absent)
        assert first.tensors is not None
        tensors = {k: np.concatenate([part.tensors[k] for part in parts if part.tensors]) for k in first.tensors}
        return InputRows(rows, None, tensors, first.labels, first.absent)

    def joins(self, other: InputRows) -> bool:
        """Whether the rows of *other*, of the same plan, can be put behind these and stay what they are.

        Whole numbers beside a null are doubles, booleans are objects: put behind others, those would become so too.
        """
        if self.tensors is not None:
            return _widths(self.tensors) == _widths(other.tensors or {})
        if self._whole is not None and other._whole is not None:
            return True
        return self.absent == other.absent and self._dtypes() == other._dtypes()

    def _dtypes(self) -> list[np.dtype[Any]]:
        return [array.dtype for array in self._arrays()]

    def _arrays(self) -> list[np.ndarray]:
        return list((self.columns or {}).values())

    def _alike(self) -> bool:
        arrays = self._arrays()
        return len({array.dtype for array in arrays}) == 1 and arrays[0].dtype.kind in "biuf"

    def _block(self) -> np.ndarray:
        """[columns x rows], the layout pandas keeps inside."""
        if self._whole is not None:
            return np.ascontiguousarray(self._whole.T)
        arrays = self._arrays()
        dtypes = {array.dtype for array in arrays}
        block = np.empty((len(arrays), self.rows), dtype=dtypes.pop() if len(dtypes) == 1 else _common(dtypes))
        for i, array in enumerate(arrays):
            block[i] = array
        return block


def _common(dtypes: set[np.dtype]) -> np.dtype:
    """The type pandas gives ``DataFrame.to_numpy``: booleans beside numbers, or anything else, make objects."""
    kinds = {dtype.kind for dtype in dtypes}
    return np.result_type(*dtypes) if kinds <= set("iuf") or kinds == {"b"} else np.dtype(object)


def _usual(array: np.ndarray) -> bool:
    if array.dtype.kind in "fc":
        return bool((np.abs(array) <= _LARGEST).all())
    if array.dtype.kind in "mM":
        return not np.isnat(array).any()
    return array.dtype.kind != "O" or not any(map(is_null, array.reshape(-1)))


def _widths(tensors: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape[1:] for name, array in tensors.items() if array.ndim}
