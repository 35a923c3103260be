"""A disk that can be full."""

from __future__ import annotations

import contextlib
from pathlib import Path


class SmallDisk:
    """A file system of its own, of 1 MiB."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, *logs: Path) -> None:
        """Leaves no byte of it, and no room in the last pages of *logs*."""
        for path in (self.folder / "ballast", *logs):
            with path.open("ab", buffering=0) as file:
                for size in (65536, 1):
                    with contextlib.suppress(OSError):
                        while True:
                            file.write(b"x" * size)

    def free(self) -> None:
        """Takes away what ``fill`` wrote."""
        (self.folder / "ballast").unlink()
