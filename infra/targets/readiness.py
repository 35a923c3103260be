"""Whether a model server answers. Standard library only: the keeper loads it by itself."""

from __future__ import annotations

import socket


def answers_ready(path: str, timeout: float) -> bool:
    """Whether the server on the unix socket *path* answers GET /readyz with 200 within *timeout* seconds a step."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(path)
            connection.sendall(b"GET /readyz HTTP/1.1\r\nhost: keeper\r\nconnection: close\r\n\r\n")
            return connection.recv(64).split(b" ")[1:2] == [b"200"]
        except OSError:
            return False
