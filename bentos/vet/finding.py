"""Finding: something about one file of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """Something about one file. *severity* ``refuse`` stops the release, ``notice`` is for the record."""

    file: str
    what: str
    severity: Literal["refuse", "notice"]
