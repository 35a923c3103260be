"""On the PYTHONPATH of a process, this writes down every address outside of loopback that it asks for.

One line each in the file that AUDIT_LOG names: the process, what it did and where to. Connections are not stopped.
"""

from __future__ import annotations

import os
import sys
from typing import Any

LOCAL = ("127.", "::1", "localhost", "0.0.0.0", "::ffff:127.")


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else ""
    elif event == "socket.getaddrinfo":
        host = arguments[0] or ""
    else:
        return
    host = host.decode() if isinstance(host, bytes) else str(host)
    if host and not host.startswith(LOCAL) and host != os.uname().nodename:
        with open(os.environ["AUDIT_LOG"], "a") as log:  # noqa: PTH123 - pathlib may not be loaded this early
            log.write(f"{os.getpid()} {' '.join(sys.orig_argv)[:200]}: {event} {host}\n")


if os.environ.get("AUDIT_LOG"):
    sys.addaudithook(_watch)
