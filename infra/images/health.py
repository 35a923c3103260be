"""The health check of a container: asks the server for /readyz, where the container's command says it listens.

Standard library only, run as a script (`python3 -I -S`) inside the container; ends with 0 when the server is ready.
"""

import socket
import sys
from pathlib import Path

SECONDS = 3.0


def listening(command: list[str]) -> str | tuple[str, int]:
    """The socket or the loopback port that the last --uds or --port of *command* names."""
    where: str | tuple[str, int] = ("127.0.0.1", 8080)
    for name, value in zip(command, [*command[1:], ""], strict=True):
        option, given, rest = name.partition("=")
        if option == "--uds":
            where = rest if given else value
        elif option == "--port":
            where = ("127.0.0.1", int(rest if given else value))
    return where


def ready(where: str | tuple[str, int]) -> bool:
    """Whether /readyz answers 200."""
    family = socket.AF_UNIX if isinstance(where, str) else socket.AF_INET
    with socket.socket(family) as connection:
        connection.settimeout(SECONDS)
        connection.connect(where)
        connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return connection.recv(64).split(b" ")[1:2] == [b"200"]


if __name__ == "__main__":
    arguments = Path("/proc/1/cmdline").read_bytes().decode().split("\0")
    try:
        sys.exit(not ready(listening(arguments)))
    except OSError as error:
        print(error)
        sys.exit(1)
