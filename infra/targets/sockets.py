"""Where a deployment's unix socket lies."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

from infra.targets.interface import PermanentTargetError

LONGEST_PATH = 107  # bytes in sockaddr_un.sun_path without its closing zero (unix(7))


def socket_path(home: Path) -> Path:
    """``<home>/server.sock``, or one in a short private folder where that would be too long. Makes the folder.

    PermanentTargetError when the short folder is not ours alone: somebody else could answer in our name.
    """
    path = home / "server.sock"
    if len(os.fsencode(path)) <= LONGEST_PATH:
        return path
    root = Path(tempfile.gettempdir()) / f"shipway-{os.getuid()}"
    folder = root / hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    for part in (root, folder):
        part.mkdir(mode=0o700, exist_ok=True)
        found = part.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise PermanentTargetError(
                f"socket folder {part}: expected a folder that only user {os.getuid()} can use, found owner {found.st_uid} "
                f"and mode {stat.filemode(found.st_mode)}. Remove it, or choose a home with a shorter path than {home}."
            )
    return folder / "server.sock"
