"""A client that sends at a constant rate over connections it keeps, for tests of what must not fail meanwhile."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from typing import Any, Self

import aiohttp


class Steady:
    """Posts *body* to /invocations *rate* times a second, whether or not answers have come (open loop).

    ``failures`` are answers other than 200, resets and time-outs; no request is sent twice; ``answers`` counts (version, rounded first prediction);
    ``first`` is the monotonic time of the first answer of each version, ``slowest`` in seconds.
    """

    def __init__(self, body: dict[str, Any], *, uds: str | None = None, url: str = "http://server", rate: float = 150):
        self.body, self.uds, self.url, self.rate = body, uds, url, rate
        self.failures: list[str] = []
        self.answers: Counter[tuple[str, int]] = Counter()
        self.first: dict[str, float] = {}
        self.slowest = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    async def _run(self) -> None:
        keep: dict[str, Any] = {"limit": 200, "keepalive_timeout": 60}  # longer than any server drains
        connector = aiohttp.UnixConnector(self.uds, **keep) if self.uds else aiohttp.TCPConnector(**keep)
        timeout = aiohttp.ClientTimeout(15)
        async with aiohttp.ClientSession(self.url, connector=connector, timeout=timeout) as client:
            began, sent = time.monotonic(), 0
            tasks: set[asyncio.Task[None]] = set()
            while not self._stop.is_set():
                task = asyncio.create_task(self._one(client))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                sent += 1
                await asyncio.sleep(max(0.0, began + sent / self.rate - time.monotonic()))
            await asyncio.gather(*tasks)

    async def _one(self, client: aiohttp.ClientSession) -> None:
        began = time.monotonic()
        try:
            async with client.post("/invocations", json=self.body) as answer:
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            self.failures.append(repr(error))
            return
        self.slowest = max(self.slowest, time.monotonic() - began)
        if answer.status != 200:
            self.failures.append(f"{answer.status} {text[:200]}")
            return
        version = answer.headers["x-shipway-version"]
        self.first.setdefault(version, time.monotonic())
        self.answers[(version, round(json.loads(text)["predictions"][0]))] += 1
