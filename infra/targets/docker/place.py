"""Where one container lies: its names, the folders of this machine that it gets, whose they are, and its port."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from bentos.serving.files import private_folder
from infra.targets.interface import PermanentTargetError
from infra.targets.sockets import LONGEST_PATH, socket_path

NOBODY = 10001  # who runs a container where the stack itself is root


@dataclass(frozen=True)
class Place:
    """Where one container lies: its name, its stack, the folders of this machine that it gets, and whose they are.

    *run* is the private folder of the socket, *given* the folder of what the container is given to start with, *port* the
    published port; each where the container has one.
    """

    container: str
    stack: str
    user: str  # uid:gid
    segments: Path
    cache: Path
    run: Path | None = None
    given: Path | None = None
    port: int | None = None


def stack_of(folder: Path) -> str:
    """What tells one stack's containers from another's on the same engine: a hash of the target's folder."""
    return hashlib.sha256(str(folder).encode()).hexdigest()[:16]


def container_name(stack: str, deployment: str) -> str:
    """A name that is also a host name (RFC 1123: 63 of a-z, 0-9 and the hyphen), whatever the model is called."""
    words = re.sub(r"[^a-z0-9]+", "-", deployment.lower()).strip("-")[:32].strip("-")
    return f"shipway-{stack[:8]}-{words}-{hashlib.sha256(deployment.encode()).hexdigest()[:8]}"


def user() -> str:
    """Who runs in a container, uid:gid: whoever runs the stack, but never root."""
    return f"{os.getuid()}:{os.getgid()}" if os.getuid() else f"{NOBODY}:{NOBODY}"


def run_folder(home: Path) -> Path:
    """The folder that a container has its socket in: below *home*, or a short private one where that path is too long."""
    run = home / "run"
    if len(os.fsencode(run / "server.sock")) <= LONGEST_PATH:
        return run
    return socket_path(run).parent / "run"


def remove_run_folder(home: Path) -> None:
    """Takes away what ``run_folder`` made, wherever it lies."""
    run = run_folder(home)
    shutil.rmtree(run if run.parent == home else run.parent, ignore_errors=True)


def give(folder: Path, owner: str) -> None:
    """Makes *folder* and gives it to *owner* (uid:gid); nobody else can look into it."""
    private_folder(folder)
    if os.getuid() == 0:
        uid, gid = (int(part) for part in owner.split(":"))
        os.chown(folder, uid, gid)


def free_port(taken: Collection[int]) -> int:
    """A free TCP port of 127.0.0.1 that is not among *taken*."""
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port
    raise PermanentTargetError("no free port on 127.0.0.1 after 100 tries. Remove deployments that nothing needs.")
