"""A client that sends at a constant rate, whether or not answers have come, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import AbstractAsyncContextManager
from typing import Generic, Self, TypeVar

Client = TypeVar("Client")


class OpenLoop(Generic[Client]):
    """Calls ``one`` *rate* times a second until it is left.

    ``failures`` are answers other than 200, resets and time-outs, each with what happened; no request is sent twice.
    ``slowest`` is in seconds; nothing more is sent once ``stopped`` is set.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.failures: list[str] = []
        self.slowest = 0.0
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def client(self) -> AbstractAsyncContextManager[Client]:
        """The connections, kept between requests."""
        raise NotImplementedError

    async def one(self, client: Client) -> None:
        """Sends one request and counts its answer."""
        raise NotImplementedError

    def answered(self, began: float, status: int, text: str) -> bool:
        """Takes the answer to a request that was sent at *began* (monotonic): whether it is one."""
        self.slowest = max(self.slowest, time.monotonic() - began)
        if status != 200:
            self.failures.append(f"{status} {text[:200]}")
        return status == 200

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self._thread.join(30)

    async def _run(self) -> None:
        async with self.client() as client:
            began, sent = time.monotonic(), 0
            tasks: set[asyncio.Task[None]] = set()
            while not self.stopped.is_set():
                task = asyncio.create_task(self.one(client))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                sent += 1
                await asyncio.sleep(max(0.0, began + sent / self.rate - time.monotonic()))
            await asyncio.gather(*tasks)
