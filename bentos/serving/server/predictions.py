"""Predictions: which call of the model answers which requests, and when.

One predict is in flight at a time, and what came meanwhile is answered next: no timer waits for more. Where one call with
many rows costs less than many calls, it is one predict for all of them; else one after the other. Short calls run on the
event loop, long ones in a thread, so that health stays responsive; long bodies are decoded in another thread before they queue.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from bentos.serving.server.answer import Answer, Request, Work, failed, opened, read, refused
from bentos.serving.server.served_model import ServedModel

LONG_SECONDS = 0.002  # a predict longer than this runs in the thread
LARGE_BODY = 64 << 10  # a body longer than this, in bytes, is decoded in a thread


class Counts(Protocol):
    """Who is told what happens here; see ServerMetrics."""

    def rejected(self) -> None:
        """A request found the queue full."""

    def late(self) -> None:
        """A request was answered 504."""

    def batch(self, rows: int) -> None:
        """One predict of *rows* rows ended."""


class Item:
    """A request on its way: ``done`` is called once with its answer, on the loop. Times are those of time.perf_counter."""

    __slots__ = ("arrived", "deadline", "done", "ended", "live", "request", "started", "timer", "work")

    def __init__(self, live: ServedModel, request: Request, done: Callable[[Answer], None], seconds: float) -> None:
        self.live = live
        self.request = request
        self.work: Work | None = None
        self.done = done
        self.arrived = time.time_ns()
        self.started = time.perf_counter()
        self.deadline = self.started + seconds
        self.timer: asyncio.TimerHandle | None = None
        self.ended = False


class Predictions:
    """The queue in front of one model. Everything is called on one event loop.

    *limit*: how many requests may wait. *batching*: "auto" as the live version's measured latency profile says, "inline" each by
    itself on the loop as it comes, "batched" joined whatever that says, "off" one by one in the thread. *account* sees
    each item and its answer before they part, and gives the answer as it goes out.
    """

    def __init__(
        self,
        account: Callable[[Item, Answer], Answer],
        counts: Counts,
        *,
        limit: int = 512,
        batching: str = "auto",
        largest: int = 64 << 20,
    ) -> None:
        self._account = account
        self._counts = counts
        self._limit = limit
        self._batching = batching
        self._largest = largest
        self._queue: deque[Item] = deque()
        self._busy = False  # a predict is in the thread
        self._turning = False  # a turn of the loop is asked for
        self._decoding = 0  # how many are with the decoder
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="predict")
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="decode")

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._queue) + self._decoding

    def close(self) -> None:
        """Waits for the body that is decoded and the predict in flight; what waits behind them is dropped."""
        self._decoder.shutdown(wait=True, cancel_futures=True)
        self._pool.shutdown(wait=True)

    def submit(self, item: Item) -> None:
        """Answers *item* now or later."""
        request = item.request
        small = len(request.body) <= LARGE_BODY and not request.encoding
        if small:
            try:
                item.work = read(item.live, request)
            except Exception as error:
                self._end(item, failed(item.live, item.request.kind, error))
                return
            if self._batching == "inline" and not self._busy and not self._queue:
                self._counts.batch(item.work.data.rows)
                self._end(item, _alone(item, item.work))
                return
        if self.waiting >= self._limit and not self._busy:
            self._turn()  # they wait for nothing but the loop
        if self.waiting >= self._limit:
            self._counts.rejected()
            self._end(item, _full(item, self._limit))
            return
        if not small:
            self._decode(item)
            return
        self._queue.append(item)
        if self._busy or (item.work is not None and item.live.seconds(item.work.data.rows) > LONG_SECONDS):
            self._watch(item)
        self._wake()

    def _decode(self, item: Item) -> None:
        """Into the decoder, and from there into the queue."""
        self._decoding += 1
        self._watch(item)
        loop = asyncio.get_running_loop()
        decoded = loop.run_in_executor(self._decoder, self._decoded, item)
        decoded.add_done_callback(functools.partial(self._arrived, item))

    def _decoded(self, item: Item) -> Answer | None:
        """Gives *item* its work, or the answer that says why there is none. Runs in the decoder."""
        try:
            if not item.ended:  # its deadline may have passed while it waited for the decoder
                item.request = opened(item.request, self._largest)
                item.work = read(item.live, item.request)
            return None
        except Exception as error:
            return failed(item.live, item.request.kind, error)

    def _arrived(self, item: Item, made: asyncio.Future[Answer | None]) -> None:
        self._decoding -= 1
        if made.cancelled():  # the server has stopped
            return
        refusal = made.result()
        if refusal is not None:
            self._end(item, refusal)
        elif not item.ended:
            self._queue.append(item)
            self._wake()

    def _end(self, item: Item, answer: Answer) -> None:
        """Answers, unless that was done."""
        if not item.ended:
            item.ended = True
            if item.timer is not None:
                item.timer.cancel()
            item.done(self._account(item, answer))

    def _watch(self, item: Item) -> None:
        """Answers 504 when the deadline passes, wherever *item* is then."""
        loop = asyncio.get_running_loop()
        item.timer = loop.call_later(max(0.0, item.deadline - time.perf_counter()), self._late, item)

    def _late(self, item: Item) -> None:
        if not item.ended:
            self._counts.late()
            self._end(
                item,
                refused(item.request.kind, 504, "no answer within the deadline; send fewer rows, or allow more time"),
            )

    def _wake(self) -> None:
        if not self._turning and not self._busy and self._queue:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Answers what waits: first every predict, then every answer's way out, so that each kind of work finds its own
        code and data in the processor's caches. Predicts of LONG_SECONDS in all, or one; the rest has another turn."""
        self._turning = False
        if self._busy:  # a full queue took its turn meanwhile
            return
        until = time.perf_counter() + LONG_SECONDS
        made: list[tuple[Item, Answer]] = []
        while batch := self._take():
            if not self._short(batch):
                self._send(batch)
                break
            made += zip(batch, self._answers(batch), strict=True)
            if time.perf_counter() > until:
                break
        for item, answer in made:
            self._end(item, answer)
        self._wake()

    def _send(self, batch: Sequence[Item]) -> None:
        """Into the thread."""
        self._busy = True
        for item in (*batch, *self._queue):  # nobody was watched while everything was short
            if item.timer is None and not item.ended:
                self._watch(item)
        loop = asyncio.get_running_loop()
        loop.run_in_executor(self._pool, self._answers, batch).add_done_callback(functools.partial(self._landed, batch))

    def _landed(self, batch: Sequence[Item], made: asyncio.Future[list[Answer]]) -> None:
        self._busy = False
        try:
            for item, answer in zip(batch, made.result(), strict=True):
                self._end(item, answer)
        finally:
            self._wake()

    def _take(self) -> list[Item]:
        """The next batch: the first that waits, and those behind it whose rows can be joined to its."""
        batch: list[Item] = []
        rows = 0
        now = time.perf_counter()
        while self._queue:
            item = self._queue[0]
            if item.ended or item.deadline < now:
                self._late(self._queue.popleft())
                continue
            if batch and not self._joins(batch[0], item, rows):
                break
            batch.append(self._queue.popleft())
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

    def _short(self, batch: Sequence[Item]) -> bool:
        rows = sum(item.work.data.rows for item in batch if item.work is not None)
        return self._batching != "off" and batch[0].live.seconds(rows) <= LONG_SECONDS

    def _answers(self, batch: Sequence[Item]) -> list[Answer]:
        """One predict for all, each by itself where that fails; never raises. Runs on the loop or in the thread."""
        works = [item.work for item in batch if item.work is not None]  # of all: nothing queues undecoded
        answers = _together(batch, works) if len(batch) > 1 else None
        self._counts.batch(sum(work.data.rows for work in works))
        return answers or [_alone(item, work) for item, work in zip(batch, works, strict=True)]


def _together(batch: Sequence[Item], works: Sequence[Work]) -> list[Answer] | None:
    """The answers by one predict; None where it failed, or did not answer row by row."""
    live, first = batch[0].live, works[0]
    data = [work.data for work in works]
    try:
        joined = type(first.data).join(data)
        made = live.runner.answer(joined, first.params, probabilities=first.probabilities)
        if made.rows != joined.rows:
            return None
        answers, start = [], 0
        for work in works:
            stop = start + work.data.rows
            answers.append(Answer(200, work.encode(made.slice(start, stop))))
            start = stop
        return answers
    except Exception:  # whose rows it was shows when each is answered by itself
        return None


def _alone(item: Item, work: Work) -> Answer:
    try:
        made = item.live.runner.answer(work.data, work.params, probabilities=work.probabilities)
        return Answer(200, work.encode(made))
    except Exception as error:
        return failed(item.live, item.request.kind, error)


def _full(item: Item, limit: int) -> Answer:
    seconds = max(1, round(limit * item.live.seconds(1)))
    found = refused(item.request.kind, 429, f"{limit} requests wait already; send it again in {seconds} s")
    return found._replace(headers=(*found.headers, (b"retry-after", b"%d" % seconds)))
