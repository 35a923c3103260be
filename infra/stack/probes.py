"""Health checks of parts: quick questions that answer True or False and never raise."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

_TIMEOUT = 0.5


def ask(url: str, *, body: Any = None, timeout: float = _TIMEOUT) -> tuple[int, bytes]:
    """GET *url*, or POST *body* as JSON; status and answer. (0, why) when nobody answered in *timeout* seconds."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if body is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        return 0, repr(error).encode()
    finally:
        connection.close()


def answers(url: str, timeout: float = _TIMEOUT) -> bool:
    """Whether *url* answers 200."""
    return ask(url, timeout=timeout)[0] == 200
