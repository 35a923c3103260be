"""A server that another process started, with a line to it (bentos/serving/server/replaceable.py). Standard library only."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence

TICK = 0.05  # seconds between two looks at the servers
READY_SECONDS = 600.0  # a server that is not ready this long after its start has failed
BACKOFF = (0.5, 30.0)  # seconds before a server that died is started again: at first, at most
FAILED = b"failed "  # begins the line of a server that could not start
SOUND_SECONDS = 60.0  # one that served this long died by accident: the backoff begins anew


class ServerProcess:
    """``<python> -m bentos.serving.launcher <arguments>`` with the *descriptors* that they name."""

    def __init__(
        self, python: str, arguments: Sequence[str], environment: Mapping[str, str], descriptors: Sequence[int]
    ) -> None:
        self.started = time.monotonic()
        self._said = b""
        self._line, theirs = socket.socketpair()
        self._line.setblocking(False)
        with theirs:
            line = theirs.fileno()
            command = [python, "-m", "bentos.serving.launcher", *arguments, "--parent-fd", str(line)]
            self._process = subprocess.Popen(command, env=environment, pass_fds=(line, *descriptors))

    def said(self, word: str) -> bool:
        """Whether it has said *word* so far."""
        return word.encode() in self._heard()

    def why(self) -> str:
        """The reason it gave before it ended, see ``tell_failure``; "" where it gave none."""
        reasons = [line.removeprefix(FAILED) for line in self._heard() if line.startswith(FAILED)]
        return reasons[-1].decode("utf-8", "replace") if reasons else ""

    def _heard(self) -> list[bytes]:
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            self._said += self._line.recv(4096)
        return self._said.split(b"\n")

    def say(self, line: str) -> None:
        """One line to the server; a dead one needs no words."""
        with contextlib.suppress(OSError):
            self._line.sendall(" ".join(line.split())[:2000].encode() + b"\n")

    def ended(self) -> int | None:
        """Its exit code, None while it runs."""
        return self._process.poll()

    def signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Ends it now, where it has not ended, and lets go of the line."""
        self._process.kill()
        self._process.wait()
        self._line.close()


def tell_failure(line: int, why: str) -> None:
    """Tells the parent at the other end of the socket *line*, a descriptor, why there is no server."""
    with contextlib.suppress(OSError):  # no parent, nobody to tell
        os.write(line, FAILED + " ".join(why.split())[:2000].encode() + b"\n")


def exit_code(code: int) -> int:
    """A process' exit code as a shell has it: 128 and the number of the signal that ended it."""
    return code if code >= 0 else 128 - code


def terminate(servers: Sequence[ServerProcess]) -> None:
    """SIGTERM to each."""
    for server in servers:
        server.signal(signal.SIGTERM)
