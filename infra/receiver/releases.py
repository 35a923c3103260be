"""Releases: the seam between the receiver's index and whatever keeps the releases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bentos.serving.errors import TransientError


class ReleasesAway(TransientError):  # noqa: N818 (the state of the seam, not a mistake)
    """What keeps the releases does not answer now; the message says what that is."""


@dataclass(frozen=True)
class ReleaseRow:
    """One release of the index; times are unix seconds. ``outcome`` is empty and ``closed_at`` None while it is open."""

    model: str
    version: str
    attempt: int
    outcome: str
    reason: str
    opened_at: float
    closed_at: float | None
    run_id: str
    page: str  # of its run in MLflow


class Releases(Protocol):
    """Every release, of all models."""

    def newest(self, limit: int, model: str | None = None) -> list[ReleaseRow]:
        """The newest *limit* releases, newest first; of one model only, where it is named. Raises ReleasesAway."""
        ...
