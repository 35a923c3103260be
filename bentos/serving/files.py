"""Files of the state: written whole or not at all, held by one process at a time, and one error for a folder that is full, read-only or no folder, whoever met it."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bentos.serving.errors import PermanentError

_CURES = {
    errno.ENOSPC: "The disk is full: free some space",
    errno.EDQUOT: "The quota is used up: free some space",
    errno.EROFS: "The file system is read-only: mount it writable",
    errno.EACCES: "This user may not write there: change its owner or mode",
    errno.EPERM: "This user may not write there: change its owner or mode",
    errno.ENOTDIR: "A file is where a folder should be: move it away",
    errno.EEXIST: "A file is where a folder should be: move it away",
}


class StateFolderError(PermanentError):
    """A folder of the stack's state cannot be written; the message says why and what to do."""


@contextmanager
def writable(folder: Path, what: str) -> Iterator[None]:
    """Turns the OSErrors of writing below *folder* into StateFolderError; *what* is being kept there."""
    try:
        yield
    except OSError as error:
        cure = _CURES.get(error.errno or 0)
        if cure is None:
            raise
        raise StateFolderError(
            f"state folder {folder}: {what} cannot be written: {error}. {cure}, or set SHIPWAY_HOME to another folder."
        ) from error


def is_about_the_disk(error: BaseException) -> OSError | None:
    """The OSError of a full or unwritable disk at the root of *error*, None where that is not its cause."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _CURES:
            return seen
        seen = seen.__cause__ or seen.__context__
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):  # MLflow's download threads keep only the words
        if f"[Errno {number}]" in str(error):
            return OSError(number, str(error))
    return None


def private_folder(folder: Path) -> Path:
    """*folder*, made with what is missing above it for its owner alone. Raises OSError."""
    for part in reversed([part for part in (folder, *folder.parents) if not part.exists()]):
        part.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)  # OSError where a file is in its place
    return folder


def private_file(path: str, flags: int) -> int:
    """The opener of a file that its owner alone reads."""
    return os.open(path, flags, 0o600)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Holds the lock file *path*, made with its folder where it is not there; the kernel lets go of it when the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_atomically(path: Path, text: str) -> None:
    """Writes *text* to *path* so that a reader sees the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
