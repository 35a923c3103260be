"""Where a release's time goes: seconds by what was done."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from monitoring.ledger.release import SECONDS


class Durations(dict[str, float]):
    """Seconds by name, in the order in which they began."""

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """The block's time, added to what *name* has already."""
        self.setdefault(name, 0.0)
        began = time.monotonic()
        try:
            yield
        finally:
            self[name] += time.monotonic() - began


def facts_of(durations: Mapping[str, float]) -> dict[str, str]:
    """The durations as facts of a release."""
    return {f"{SECONDS}{name}": f"{seconds:.3f}" for name, seconds in durations.items()}


def words_of(durations: Mapping[str, float]) -> str:
    """``vet 1.2 s, environment 0.3 s``."""
    return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in durations.items())
