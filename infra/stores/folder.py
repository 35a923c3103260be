"""FolderStore: files kept in a folder of this machine."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.stores.interface import (
    MissingFileError,
    Opened,
    OutsideError,
    PermanentStoreError,
    Stored,
    TransientStoreError,
    checked_key,
)

_HIDDEN = ".put-"  # what is being copied begins so
_CHUNK = 1024 * 1024
_PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EBUSY})


class FolderStore:
    """A store in *folder*, made when the first file is put."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def put(self, key: str, source: Path) -> str:
        """Keeps a copy of *source* as *key*; it appears by one rename."""
        place = self._place(key)
        with self._told("put", key):
            place.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=_HIDDEN, dir=place.parent))
            try:
                copy = scratch / "new"
                if source.is_dir():
                    shutil.copytree(source, copy)
                else:
                    shutil.copy2(source, copy)
                if place.is_dir():
                    place.rename(scratch / "old")
                copy.rename(place)
            finally:
                shutil.rmtree(scratch)
        return str(place)

    def open(self, key: str) -> Opened:
        """The file *key*, for reading."""
        place = self._place(key)
        with self._told("open", key):
            if not place.is_file():
                raise MissingFileError(f"store {self}: no file {key!r}.")
            file = place.open("rb")
            return Opened(self._stored(key, os.fstat(file.fileno())), file.read, file.close)

    def get(self, key: str, place: Path) -> None:
        """Copies the file *key* to *place*."""
        with self.open(key) as opened, whole(place) as path, path.open("wb") as file:
            while block := opened.read(_CHUNK):
                file.write(block)

    def list(self, prefix: str = "") -> Iterator[Stored]:
        """The files whose keys begin with *prefix*."""
        root = self.folder.resolve()
        found = (path for path in root.rglob("*") if path.is_file() and _HIDDEN not in str(path.relative_to(root)))
        for key in sorted(path.relative_to(root).as_posix() for path in found):
            if key.startswith(prefix):
                yield self._stored(key, (root / key).stat())

    def exists(self, key: str) -> bool:
        """Whether a file has that key."""
        return self._place(key).is_file()

    def delete(self, key: str) -> int:
        """Deletes the file *key* or the folder *key*."""
        place = self._place(key)
        with self._told("delete", key):
            if place.is_dir():
                count = sum(1 for path in place.rglob("*") if path.is_file())
                shutil.rmtree(place)
                return count
            present = place.is_file()
            place.unlink(missing_ok=True)
            return int(present)

    def check(self) -> None:
        """Proves that the folder can be written."""
        with self._told("check", ""):
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=_HIDDEN):
                return

    def _place(self, key: str) -> Path:
        place = (self.folder / checked_key(key, self)).resolve()
        if not place.is_relative_to(self.folder.resolve()):  # by a link
            raise OutsideError(f"store {self}: key {key!r} leads outside it; expected a relative path.")
        return place

    @staticmethod
    def _stored(key: str, stat: os.stat_result) -> Stored:
        return Stored(key, stat.st_size, stat.st_mtime, f"{stat.st_mtime_ns:x}-{stat.st_size:x}")

    @contextmanager
    def _told(self, what: str, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = TransientStoreError if error.errno in _PASSING else PermanentStoreError
            why = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            raise kind(
                f"store {self}: cannot {what} {key!r} ({why}). Free space, or correct the path or its mode."
            ) from error


@contextmanager
def whole(place: Path) -> Iterator[Path]:
    """A hidden path beside *place* that becomes *place* by one rename if the block ends well, and is gone otherwise."""
    place.parent.mkdir(parents=True, exist_ok=True)
    scratch = place.parent / f"{_HIDDEN}{os.getpid()}-{place.name}"
    try:
        yield scratch
        scratch.replace(place)
    finally:
        scratch.unlink(missing_ok=True)
