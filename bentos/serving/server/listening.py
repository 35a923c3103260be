"""Where a server listens: a unix socket, a TCP port, or a socket of its parent's. Standard library only."""

from __future__ import annotations

import argparse
import contextlib
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from bentos.serving.errors import PermanentError


class LaunchError(PermanentError):
    """The server cannot start as asked."""


def where(listener: socket.socket | None, options: argparse.Namespace) -> str:
    """The address, for people."""
    name = options.uds if listener is None else listener.getsockname()
    return "http://{}:{}".format(*name[:2]) if isinstance(name, tuple) else f"unix:{name}"


@contextlib.contextmanager
def listening(options: argparse.Namespace) -> Iterator[socket.socket | None]:
    """As ``bound``, but None for a unix socket, with the way to it cleared, and for a worker, which listens nowhere."""
    if options.worker is not None:
        yield None
        return
    if options.uds is None:
        with bound(options) as listener:
            yield listener
        return
    clear_socket(options.uds)
    try:
        yield None
    finally:
        options.uds.unlink(missing_ok=True)


@contextlib.contextmanager
def bound(options: argparse.Namespace) -> Iterator[socket.socket]:
    """The bound socket, on which nobody listens yet; closed and cleared at the end."""
    if options.fd is not None:
        with socket.socket(fileno=options.fd) as listener:
            yield listener
    elif options.uds is not None:
        try:
            with bind_socket(options.uds) as listener:
                yield listener
        finally:
            options.uds.unlink(missing_ok=True)
    else:
        with bind_port(options.host, options.port) as listener:
            yield listener


def bind_port(host: str, port: int) -> socket.socket:
    """A socket bound to *host* and *port*, not listening yet. Raises LaunchError."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise LaunchError(f"--host {host} --port {port}: cannot listen there: {error}") from error
    return listener


def clear_socket(path: Path) -> None:
    """Makes way for a unix socket at *path*: takes a dead server's away and leaves one that only the owner may use.

    Raises LaunchError where a server answers there, where something else lies there, or where no socket can be.
    """
    bind_socket(path).close()  # uvicorn takes over the mode of the socket it finds


def bind_socket(path: Path) -> socket.socket:
    """A unix socket bound to *path*, which only its owner may use, not listening yet; a dead server's is taken away.

    Raises LaunchError where a server answers there, where something else lies there, or where no socket can be.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise LaunchError(f"--uds {path}: expected nothing or a socket there, found another file")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            path.unlink(missing_ok=True)
        except OSError as error:
            raise LaunchError(f"--uds {path}: {error}; give a shorter path or one that can be written") from error
        else:
            raise LaunchError(f"--uds {path}: another server answers there; stop it first")
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(path))
    path.chmod(0o600)
    return bound
