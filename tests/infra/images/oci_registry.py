"""A real OCI registry (Debian's docker-registry) with one user, for tests that push and pull."""

from __future__ import annotations

import ctypes
import json
import secrets
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from infra.images.interface import RegistryLogin

BINARY = shutil.which("docker-registry")
PASSWORD = "s3cret-of-the-robot"
LOGIN = RegistryLogin(username="robot", password=PASSWORD)

needs_registry = pytest.mark.skipif(
    BINARY is None, reason="docker-registry is not installed (Debian's package of that name)"
)


@dataclass
class RealRegistry:
    """A docker-registry process at *host*, with its storage."""

    host: str
    storage: Path
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)

    def blob(self, digest: str) -> Path:
        name = digest.removeprefix("sha256:")
        return self.storage / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data"


def crypted(password: str) -> str:
    """bcrypt by the system's libcrypt: the one form of htpasswd that the registry takes."""
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    found: bytes = library.crypt(password.encode(), b"$2b$05$" + secrets.token_hex(11).encode())
    return found.decode().replace("$2b$", "$2y$", 1)


def serve(folder: Path, address: str = "127.0.0.1", tls: tuple[Path, Path] | None = None) -> RealRegistry:
    """A registry with the user robot, listening on a free port of *address*."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port = int(probe.getsockname()[1])
    (folder / "htpasswd").write_text(f"robot:{crypted(PASSWORD)}\n")
    http: dict[str, Any] = {"addr": f"{address}:{port}", "secret": "tests"}
    if tls is not None:
        http["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
    config = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
        "http": http,
        "auth": {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}},
    }
    (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(BINARY), "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    host = f"{'localhost' if address == '127.0.0.1' else address}:{port}"
    end = time.monotonic() + 20
    while time.monotonic() < end:
        assert process.poll() is None, (folder / "log").read_text()
        with socket.socket() as probe:
            if probe.connect_ex((address, port)) == 0:
                return RealRegistry(host, folder / "storage", process)
        time.sleep(0.05)
    process.kill()
    raise RuntimeError((folder / "log").read_text())
