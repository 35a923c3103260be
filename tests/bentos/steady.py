"""Steady traffic straight to a server, for tests of what must not fail meanwhile."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

import aiohttp

from tests.open_loop import OpenLoop


class Steady(OpenLoop[aiohttp.ClientSession]):
    """Posts *body* to /invocations *rate* times a second.

    ``answers`` counts (version, rounded first prediction); ``first`` is the monotonic time of the first answer of each
    version.
    """

    def __init__(self, body: dict[str, Any], *, uds: str | None = None, url: str = "http://server", rate: float = 150):
        super().__init__(rate)
        self.body, self.uds, self.url = body, uds, url
        self.answers: Counter[tuple[str, int]] = Counter()
        self.first: dict[str, float] = {}

    def client(self) -> aiohttp.ClientSession:
        """One session, on the unix socket or the network."""
        keep: dict[str, Any] = {"limit": 200, "keepalive_timeout": 60}  # longer than any server drains
        connector = aiohttp.UnixConnector(self.uds, **keep) if self.uds else aiohttp.TCPConnector(**keep)
        return aiohttp.ClientSession(self.url, connector=connector, timeout=aiohttp.ClientTimeout(15))

    async def one(self, client: aiohttp.ClientSession) -> None:
        """One request."""
        began = time.monotonic()
        try:
            async with client.post("/invocations", json=self.body) as answer:
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            self.failures.append(repr(error))
            return
        if self.answered(began, answer.status, text):
            version = answer.headers["x-shipway-version"]
            self.first.setdefault(version, time.monotonic())
            self.answers[(version, round(json.loads(text)["predictions"][0]))] += 1
