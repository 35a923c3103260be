"""An open-loop client for the tests: a constant rate of requests, every answer counted, in a thread of its own."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from typing import Any

import httpx


class Traffic:
    """Sends one-row requests of the columns a, b, c, d to *url* at *rate* a second until stopped.

    ``failures`` are answers other than 200, resets and time-outs, each with what happened; ``versions`` counts who
    answered, ``fallbacks`` what the baseline answered in the candidate's place.
    """

    def __init__(self, url: str, rate: float) -> None:
        self.url, self.rate = url, rate
        self.failures: list[str] = []
        self.versions: Counter[str | None] = Counter()
        self.fallbacks: Counter[str] = Counter()
        self.slowest = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=30)

    @property
    def requests(self) -> int:
        return sum(self.versions.values()) + len(self.failures)

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
        async with httpx.AsyncClient(limits=limits, timeout=15, trust_env=False) as client:
            began, sent = time.monotonic(), 0
            tasks: set[asyncio.Task[None]] = set()
            while not self._stop.is_set():
                task = asyncio.create_task(self._one(client))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                sent += 1
                await asyncio.sleep(max(0.0, began + sent / self.rate - time.monotonic()))
            await asyncio.gather(*tasks)

    async def _one(self, client: httpx.AsyncClient) -> None:
        row = [random.gauss(0, 1) for _ in range(4)]
        body: dict[str, Any] = {"dataframe_split": {"columns": list("abcd"), "data": [row]}}
        began = time.monotonic()
        try:
            answer = await client.post(self.url, json=body, headers={"x-user-id": str(random.randrange(5000))})
        except httpx.HTTPError as error:
            self.failures.append(repr(error))
            return
        self.slowest = max(self.slowest, time.monotonic() - began)
        if answer.status_code != 200:
            self.failures.append(f"{answer.status_code} {answer.text[:200]}")
            return
        self.versions[answer.headers.get("x-shipway-version")] += 1
        if (instead := answer.headers.get("x-shipway-fallback")) is not None:
            self.fallbacks[instead] += 1
