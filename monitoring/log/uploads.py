"""Moves the compacted prediction log into a store, and deletes there what is older than the retention."""

from __future__ import annotations

import contextlib
import logging
from datetime import date
from pathlib import Path

from infra.stores.interface import Store, StoreError

log = logging.getLogger("shipway.compactor")


def upload(parquet: Path, store: Store) -> tuple[int, int]:
    """Moves the Parquet files below *parquet* into *store* under the same relative paths; how many went, how many wait.

    A file is deleted here once the store has it whole. One that the store does not take stays and is tried again by the
    next call; so do all after it, because what keeps one away keeps them all.
    """
    waiting = sorted(parquet.glob("model=*/version=*/day=*/*.parquet"))
    for done, path in enumerate(waiting):
        try:
            store.put(path.relative_to(parquet).as_posix(), path)
        except StoreError as error:
            log.warning(
                "%d Parquet files stay in %s until they can be uploaded: %s", len(waiting) - done, parquet, error
            )
            return done, len(waiting) - done
        path.unlink()
        for folder in path.relative_to(parquet).parents[:-1]:  # day, version, model
            with contextlib.suppress(OSError):  # not empty
                (parquet / folder).rmdir()
    return len(waiting), 0


def drop_stored_days(store: Store, last: date) -> int:
    """Deletes the days up to and with *last*; how many day folders that were. Raises StoreError."""
    days: set[str] = set()
    for stored in store.list():
        folder, _, _ = stored.key.rpartition("/")
        day = folder.rpartition("/day=")[2]
        with contextlib.suppress(ValueError):  # not ours
            if date.fromisoformat(day) <= last:
                days.add(folder)
    for folder in sorted(days):
        store.delete(folder)
    return len(days)
