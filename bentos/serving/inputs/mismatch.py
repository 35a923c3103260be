"""ValueMismatch: a value that does not fit its type, and how an error shows it."""

from __future__ import annotations

from typing import Any

import numpy as np


class ValueMismatch(ValueError):  # noqa: N818 it is a finding, turned into an InputError that names the column
    """A value that does not fit: what was found, and in which row (None where the column as a whole is wrong)."""

    def __init__(self, found: str, row: int | None = None) -> None:
        super().__init__(found)
        self.found = found
        self.row = row


def is_null(value: Any) -> bool:
    """None, NaN, NaT or pandas' NA."""
    if value is None:
        return True
    if isinstance(value, (float, np.floating)):
        return bool(value != value)
    return type(value).__name__ in ("NAType", "NaTType")


def describe(value: Any) -> str:
    """A value as an error message shows it, cut to 40 characters: ``string 'abc'``."""
    if is_null(value):
        return "null"
    kinds = {bool: "boolean", int: "integer", float: "double", str: "string", bytes: "binary", list: "array"}
    text = repr(value)
    return f"{kinds.get(type(value), type(value).__name__)} {text if len(text) <= 40 else text[:37] + '...'}"
