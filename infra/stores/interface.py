"""What a store is: files under keys, and what can go wrong with them.

StoreError
├── TransientStoreError      the store is away
└── PermanentStoreError      it refuses, or cannot be used as asked
    ├── MissingFileError     no file has that key
    └── OutsideError         no file can have that key
"""

from __future__ import annotations

import mimetypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from bentos.serving.errors import PermanentError, ShipwayError, TransientError


class StoreError(ShipwayError):
    """Base of what stores raise."""


class TransientStoreError(StoreError, TransientError):
    """The store is away; the same call may succeed later."""


class PermanentStoreError(StoreError, PermanentError):
    """The store refuses or cannot be used as asked; the message says what was found, what was expected, what to do."""


class MissingFileError(PermanentStoreError):
    """No file has that key."""


class OutsideError(PermanentStoreError):
    """The key leads outside the store, or is none."""


@dataclass(frozen=True)
class Stored:
    """One file of a store: *size* in bytes, *modified* in unix seconds, *tag* changes with the content."""

    key: str
    size: int
    modified: float
    tag: str


@dataclass(frozen=True)
class Opened:
    """A file being read, from its beginning. Close it, or use it as a context manager."""

    stored: Stored
    read: Callable[[int], bytes]  # at most so many bytes; b"" at the end. Raises StoreError
    close: Callable[[], None]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Store(Protocol):
    """Files under keys: relative paths with forward slashes. Every method raises StoreError."""

    def put(self, key: str, source: Path) -> str:
        """Keeps a copy of *source* (a file, or a folder with all below it) as *key*, replacing what was there.

        A file is there whole or not at all. Returns where it lies, for people.
        """
        ...

    def open(self, key: str) -> Opened:
        """The file *key*, for reading. Raises MissingFileError."""
        ...

    def get(self, key: str, place: Path) -> None:
        """Copies the file *key* to *place*, whole or not at all. Raises MissingFileError."""
        ...

    def list(self, prefix: str = "") -> Iterator[Stored]:
        """The files whose keys begin with *prefix*, by key."""
        ...

    def exists(self, key: str) -> bool:
        """Whether a file has that key."""
        ...

    def delete(self, key: str) -> int:
        """Deletes the file *key*, or all files below the folder *key*; how many there were."""
        ...

    def check(self) -> None:
        """Proves that files can be written and deleted here."""
        ...


def checked_key(key: str, store: object) -> str:
    """*key*, if it stays inside a store. Raises PermanentStoreError."""
    parts = key.split("/")
    if not key or key.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise OutsideError(f"store {store}: key {key!r} leads outside it; expected a relative path.")
    if "\\" in key or not key.isprintable() or len(key.encode()) > 900:
        raise OutsideError(
            f"store {store}: key {key[:80]!r} cannot be used; expected a relative path with forward slashes, printable, "
            "of at most 900 bytes."
        )
    return key


def content_type(key: str) -> str:
    """The media type that the ending of *key* says."""
    return mimetypes.guess_type(key)[0] or "application/octet-stream"
