"""Who joins whom: the requests that wait, and which of them the next predict answers. No clock, no loop, no thread."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator

from bentos.serving.server.formats import Work
from bentos.serving.server.messages import Answer, Request
from bentos.serving.server.served_model import ServedModel

_KEPT = 64


class Item:
    """A request on its way: ``done`` is called once with its answer, on the loop. Times are those of time.perf_counter."""

    __slots__ = (
        "arrived",
        "deadline",
        "done",
        "ended",
        "large",
        "live",
        "queued",
        "request",
        "started",
        "timer",
        "work",
    )

    def __init__(self, live: ServedModel, request: Request, done: Callable[[Answer], None], seconds: float) -> None:
        self.live = live
        self.request = request
        self.work: Work | None = None
        self.done = done
        self.arrived = time.time_ns()
        self.started = time.perf_counter()
        self.deadline = self.started + seconds
        self.timer: asyncio.TimerHandle | None = None
        self.queued = False  # it waits for a predict
        self.large = False  # its body is long, or was compressed
        self.ended = False


class Batcher:
    """The requests that wait for a predict, in their order. *batching*: "auto" joins as the live version's measured latency
    profile says, "batched" whatever that says; any other word joins nothing."""

    def __init__(self, batching: str) -> None:
        self._batching = batching
        self._queue: deque[Item] = deque()
        self._gone = 0  # of the queue: those that were answered where they stand

    def __len__(self) -> int:
        """How many requests wait."""
        return len(self._queue) - self._gone

    def __iter__(self) -> Iterator[Item]:
        return (item for item in self._queue if not item.ended)

    def add(self, item: Item) -> None:
        """Puts a decoded *item* behind the others."""
        item.queued = True
        self._queue.append(item)

    def forget(self, item: Item) -> None:
        """*item* was answered where it stands. Of such no more are kept than of those that wait."""
        item.queued = False
        self._gone += 1
        if self._gone > _KEPT and 2 * self._gone > len(self._queue):
            self._queue = deque(item for item in self._queue if item.queued)
            self._gone = 0

    def take(self, now: float, late: Callable[[Item], None]) -> list[Item]:
        """The next batch: the first that waits, and those behind it whose rows can be joined to its; empty where none does.
        Those whose deadline has passed *now* are given to *late*."""
        batch: list[Item] = []
        rows = 0
        while self._queue:
            item = self._queue[0]
            if not item.queued:
                self._queue.popleft()
                self._gone -= 1
                continue
            if item.deadline < now:
                self._queue.popleft().queued = False
                late(item)
                continue
            if batch and not self._joins(batch[0], item, rows):
                break
            self._queue.popleft().queued = False
            batch.append(item)
            rows += item.work.data.rows if item.work is not None else 0
        return batch

    def _joins(self, first: Item, item: Item, rows: int) -> bool:
        return (
            (self._batching == "batched" or (self._batching == "auto" and first.live.joins))
            and first.work is not None
            and item.work is not None
            and (first.live.rowwise_probabilities if first.work.probabilities else first.live.rowwise)
            and rows + item.work.data.rows <= first.live.most_rows
            and first.work.joins(item.work)
        )
