"""Predictions: when and where each request is decoded and predicted, and what ends those that wait too long.

One predict is in flight at a time, and what came meanwhile is answered next: no timer waits for more. Where one call with
many rows costs less than many calls, it is one predict for all of them; else one after the other (bentos/serving/server/batcher.py).
Short calls run on the event loop, long ones in a thread, so that health stays responsive; long bodies are decoded in another
thread before they queue.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from bentos.serving.server.batcher import Batcher, Item
from bentos.serving.server.errors import failed, refused
from bentos.serving.server.formats import Work, opened, read
from bentos.serving.server.messages import Answer
from bentos.serving.wire.interface import Body

LONG_SECONDS = 0.002  # a predict longer than this runs in the thread
STANDSTILL = (
    1.0  # seconds: after a predict on the loop that took so long all of them run in the thread, whatever was measured
)
LARGE_BODY = 64 << 10  # a body longer than this, in bytes, is decoded in a thread


class Counts(Protocol):
    """Who is told what happens here; see ServerMetrics."""

    def rejected(self) -> None:
        """A request found the queue full."""

    def late(self) -> None:
        """A request was answered 504."""

    def batch(self, rows: int) -> None:
        """One predict of *rows* rows ended."""


class Predictions:
    """The queue in front of one model. Everything is called on one event loop.

    *limit*: how many requests may wait. *deadline* in seconds: while a predict outlasts it, others are refused at once (503).
    *batching*: "auto" as the live version's measured latency profile says, "inline" each by
    itself on the loop as it comes, "batched" joined whatever that says, "off" one by one in the thread. *account* sees
    each item and its answer before they part, and gives the answer as it goes out.
    """

    def __init__(
        self,
        account: Callable[[Item, Answer], Answer],
        counts: Counts,
        *,
        limit: int = 512,
        deadline: float = 30.0,
        batching: str = "auto",
        largest: int = 64 << 20,
    ) -> None:
        self._account = account
        self._counts = counts
        self._limit = limit
        self._deadline = deadline
        self._batching = batching
        self._largest = largest
        self._batcher = Batcher(batching)
        self._sent = 0.0  # when a predict was given to the thread that is in it still; 0: none is
        self._turning = False  # a turn of the loop is asked for
        self._misjudged = False  # a predict on the loop took STANDSTILL
        self._decoding = 0  # how many bodies are with the decoder
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="predict")
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="decode")

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._batcher) + self._decoding

    def seconds(self) -> float:
        """How long the predict in the thread has run; 0 where there is none. Any thread may ask."""
        sent = self._sent
        return time.perf_counter() - sent if sent else 0.0

    def close(self) -> None:
        """Waits for the body that is decoded, and for the predict in flight unless it hangs; what waits behind them is dropped."""
        self._decoder.shutdown(wait=True, cancel_futures=True)
        while self._sent and self.seconds() <= 2 * self._deadline:
            time.sleep(0.01)
        self._pool.shutdown(wait=not self._sent)

    def abandon(self) -> None:
        """Answers what waits behind a predict that hangs: this server ends."""
        for item in list(self._batcher):
            self._batcher.forget(item)
            self._end(item, _hangs(item, self.seconds()))

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
            if self._batching == "inline" and not self._sent and not self._batcher:
                self._counts.batch(item.work.data.rows)
                self._end(item, _alone(item, item.work))
                return
        if self._sent:
            if (seconds := self.seconds()) > self._deadline:
                self._end(item, _hangs(item, seconds))
                return
        elif self.waiting >= self._limit:
            self._turn()  # they wait for nothing but the loop
        if self.waiting >= self._limit:
            self._counts.rejected()
            self._end(item, _full(item, self._limit, self._deadline))
            return
        if not small:
            self._decode(item)
            return
        self._batcher.add(item)
        if self._sent or (item.work is not None and item.live.seconds(item.work.data.rows) > LONG_SECONDS):
            self._watch(item)
        self._wake()

    def _decode(self, item: Item) -> None:
        """Into the decoder, and from there into the queue."""
        self._decoding += 1
        item.large = True
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
        if item.ended or made.cancelled():  # late, or the server has stopped
            return
        refusal = made.result()
        if refusal is not None:
            self._end(item, refusal)
        else:
            self._batcher.add(item)
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
        """The deadline of *item* has passed: it waits no more. A body that is with the decoder counts until it comes to it."""
        if item.ended:
            return
        if item.queued:
            self._batcher.forget(item)
        self._counts.late()
        self._end(
            item,
            refused(item.request.kind, 504, "no answer within the deadline; send fewer rows, or allow more time"),
        )

    def _wake(self) -> None:
        if not self._turning and not self._sent and self._batcher:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Answers what waits: first every predict, then every answer's way out, so that each kind of work finds its own
        code and data in the processor's caches. Predicts of LONG_SECONDS in all, or one; the rest has another turn."""
        self._turning = False
        if self._sent:  # a full queue took its turn meanwhile
            return
        now = time.perf_counter()
        until = now + LONG_SECONDS
        made: list[tuple[Item, Answer]] = []
        while batch := self._batcher.take(now, self._late):
            if not self._short(batch):
                self._send(batch)
                break
            made += zip(batch, self._answers(batch), strict=True)
            began, now = now, time.perf_counter()
            if now - began > STANDSTILL:
                self._misjudged = True
            if now > until:
                break
        for item, answer in made:
            self._end(item, answer)
        self._wake()

    def _send(self, batch: Sequence[Item]) -> None:
        """Into the thread."""
        self._sent = time.perf_counter()
        for item in (*batch, *self._batcher):  # nobody was watched while everything was short
            if item.timer is None and not item.ended:
                self._watch(item)
        loop = asyncio.get_running_loop()
        loop.run_in_executor(self._pool, self._answers, batch).add_done_callback(functools.partial(self._landed, batch))

    def _landed(self, batch: Sequence[Item], made: asyncio.Future[list[Answer]]) -> None:
        self._sent = 0.0
        try:
            for item, answer in zip(batch, made.result(), strict=True):
                self._end(item, answer)
        finally:
            self._wake()

    def _short(self, batch: Sequence[Item]) -> bool:
        """Whether the predict is as short as rows of usual size make it: a row with a long text may take a model for ever."""
        if self._misjudged:
            return False
        rows = 0
        for item in batch:
            if item.large:
                return False
            rows += item.work.data.rows if item.work is not None else 0
        return self._batching != "off" and batch[0].live.seconds(rows) <= LONG_SECONDS

    def _answers(self, batch: Sequence[Item]) -> list[Answer]:
        """One predict for all; where that fails one for each half, down to whose rows it was. Never raises. Runs on the loop or
        in the thread."""
        self._counts.batch(sum(item.work.data.rows for item in batch if item.work is not None))
        return self._halved(batch)

    def _halved(self, batch: Sequence[Item]) -> list[Answer]:
        if self._sent:
            self._sent = time.perf_counter()  # each predict has its own time
        if all(item.ended for item in batch):
            return [Answer(504, Body(b""))] * len(batch)  # given already; nobody gets these
        works = [item.work for item in batch if item.work is not None]  # of all: nothing queues undecoded
        if len(batch) == 1:
            return [_alone(batch[0], works[0])]
        half = len(batch) // 2
        return _together(batch, works) or [*self._halved(batch[:half]), *self._halved(batch[half:])]


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
            answers.append(Answer(200, work.encode(made.slice(start, stop)), headers=work.headers))
            start = stop
        return answers
    except Exception:  # whose rows it was shows when each is answered by itself
        return None


def _alone(item: Item, work: Work) -> Answer:
    try:
        made = item.live.runner.answer(work.data, work.params, probabilities=work.probabilities)
        return Answer(200, work.encode(made), "", work.headers)
    except Exception as error:
        return failed(item.live, item.request.kind, error)


def _full(item: Item, limit: int, deadline: float) -> Answer:
    """429, and when to come back: when the queue of now has been answered, where it is known how long that takes; at the
    latest after *deadline*, when whoever waits now does so no more."""
    seconds = max(1, round(min(limit * item.live.seconds(1), deadline)))
    found = refused(item.request.kind, 429, f"{limit} requests wait already; send it again in {seconds} s")
    return found._replace(headers=(*found.headers, (b"retry-after", b"%d" % seconds)))


def _hangs(item: Item, seconds: float) -> Answer:
    return refused(
        item.request.kind, 503, f"a predict has run for {seconds:.0f} s, and nobody is answered before its end"
    )
