"""Coerced: inputs that fit the signature, in whichever form a model takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Coerced:
    """Checked inputs of ``rows`` rows: columns in the signature's order, or tensors by name (an unnamed one under "").

    Exactly one of ``columns`` and ``tensors`` is set. ``labels`` are the names that frames carry; ``absent`` those of the
    optional columns that were not given and are held here as nulls. ``block`` is [columns x rows] where all columns
    were made as one array, of which ``columns`` are then the rows.
    """

    rows: int
    columns: dict[str, np.ndarray] | None = None
    tensors: dict[str, np.ndarray] | None = None
    labels: tuple[str | int, ...] = ()
    absent: frozenset[str | int] = frozenset()
    block: np.ndarray | None = None

    def frame(self, *, absent: bool = True) -> pd.DataFrame:
        """The columns as a data frame; without the columns that were not given if ``absent`` is false, as MLflow does."""
        import pandas as pd

        assert self.columns is not None
        arrays = list(self.columns.values())
        if self.block is not None or (len({array.dtype for array in arrays}) == 1 and arrays[0].dtype.kind in "biuf"):
            frame = pd.DataFrame(self._block().T, columns=pd.Index(self.labels), copy=False)
        else:
            frame = pd.DataFrame(dict(zip(self.labels, arrays, strict=True)))
        return frame if absent or not self.absent else frame.drop(columns=list(self.absent))

    def array(self) -> np.ndarray:
        """One array: the only tensor, or the columns as [rows x columns] of their common type (object if there is none)."""
        if self.tensors is not None:
            return next(iter(self.tensors.values()))
        return self._block().T

    @property
    def numeric(self) -> bool:
        """Whether every column is of numbers or booleans, so that ``array`` says all that ``frame`` does."""
        return self.block is not None or all(a.dtype.kind in "biuf" for a in (self.columns or {}).values())

    def slice(self, start: int, stop: int) -> Coerced:
        """Rows from ``start`` up to ``stop``."""
        stop = min(stop, self.rows)
        columns = {k: v[start:stop] for k, v in self.columns.items()} if self.columns is not None else None
        tensors = {k: v[start:stop] for k, v in self.tensors.items()} if self.tensors is not None else None
        return Coerced(stop - start, columns, tensors, self.labels, self.absent)

    @staticmethod
    def join(parts: Sequence[Coerced]) -> Coerced:
        """The rows of ``parts`` after one another; they come from one plan and have equal ``absent`` and tensor widths.

        Raises ValueError if tensors differ in the lengths of their other dimensions.
        """
        first = parts[0]
        if len(parts) == 1:
            return first
        rows = sum(part.rows for part in parts)
        if first.columns is not None:
            columns = {k: np.concatenate([part.columns[k] for part in parts if part.columns]) for k in first.columns}
            return Coerced(rows, columns, None, first.labels, first.absent)
        assert first.tensors is not None
        tensors = {k: np.concatenate([part.tensors[k] for part in parts if part.tensors]) for k in first.tensors}
        return Coerced(rows, None, tensors, first.labels, first.absent)

    def _block(self) -> np.ndarray:
        """[columns x rows], the layout pandas keeps inside, so that a model sees the same bits through either door."""
        assert self.columns is not None
        if self.block is not None:
            return self.block
        arrays = list(self.columns.values())
        dtypes = {array.dtype for array in arrays}
        block = np.empty((len(arrays), self.rows), dtype=dtypes.pop() if len(dtypes) == 1 else _common(dtypes))
        for i, array in enumerate(arrays):
            block[i] = array
        return block


def _common(dtypes: set[np.dtype]) -> np.dtype:
    """The type pandas gives ``DataFrame.to_numpy``: booleans beside numbers, or anything else, make objects."""
    kinds = {dtype.kind for dtype in dtypes}
    return np.result_type(*dtypes) if kinds <= set("iuf") or kinds == {"b"} else np.dtype(object)
