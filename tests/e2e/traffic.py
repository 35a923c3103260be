"""Traffic of one-row requests through the gateway, every answer counted."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Any

import httpx

from tests.open_loop import OpenLoop


class Traffic(OpenLoop[httpx.AsyncClient]):
    """Sends requests of the columns a, b, c, d to *url* at *rate* a second.

    ``versions`` counts who answered, ``fallbacks`` what the baseline answered in the candidate's place.
    """

    def __init__(self, url: str, rate: float) -> None:
        super().__init__(rate)
        self.url = url
        self.versions: Counter[str | None] = Counter()
        self.fallbacks: Counter[str] = Counter()

    @property
    def requests(self) -> int:
        """How many have been answered or have failed."""
        return sum(self.versions.values()) + len(self.failures)

    def client(self) -> httpx.AsyncClient:
        """One client."""
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
        return httpx.AsyncClient(limits=limits, timeout=15, trust_env=False)

    async def one(self, client: httpx.AsyncClient) -> None:
        """One request."""
        row = [random.gauss(0, 1) for _ in range(4)]
        body: dict[str, Any] = {"dataframe_split": {"columns": list("abcd"), "data": [row]}}
        began = time.monotonic()
        try:
            answer = await client.post(self.url, json=body, headers={"x-user-id": str(random.randrange(5000))})
        except httpx.HTTPError as error:
            self.failures.append(repr(error))
            return
        if self.answered(began, answer.status_code, answer.text):
            self.versions[answer.headers.get("x-shipway-version")] += 1
            if (instead := answer.headers.get("x-shipway-fallback")) is not None:
                self.fallbacks[instead] += 1
