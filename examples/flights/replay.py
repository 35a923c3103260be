"""Replays flights in time order as live traffic: an open loop at a constant rate that counts every answer.

Requests leave on a clock, whatever became of those before. One that gets no whole answer, an answer other than 2xx, or
could not be sent within ``MAX_LATE`` of its time is a failure; nothing is retried. Labels come back after the flight's
time in the air, scaled as the replay scales the day.
"""

from __future__ import annotations

import asyncio
import heapq
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from examples.flights.features import bodies
from examples.flights.http_client import Answer, ExchangeError, HttpClient
from examples.flights.sent import Sent, Tally

if TYPE_CHECKING:
    import pandas as pd

MAX_LATE = 1.0  # seconds behind its time after which a request counts as not sent
TIMEOUT = 5.0  # seconds a client waits
LABEL_SECONDS = 0.25  # how often labels are posted
LABEL_TRIES = 20
LABEL_BATCH = 500
DAY = 86400.0


@dataclass(frozen=True)
class Scene:
    """From which day on, and how thinly, flights are replayed. At the end of the data it begins again."""

    period: str  # whose counts it adds to
    first: str  # MM-DD
    stride: int = 1  # every n-th flight


class Replay:
    """The open-loop client; lives in one event loop. *rate* is requests a second."""

    def __init__(self, flights: pd.DataFrame, *, gateway: str, receiver: str, rate: float, model: str) -> None:
        self._flights = flights
        self._days = flights["day"].to_numpy()
        self._per_day = len(flights) / len(set(self._days))
        self._path, self._rate = f"/models/{model}/invocations", rate
        self._gateway = HttpClient(gateway, timeout=TIMEOUT)
        self._receiver = HttpClient(receiver, timeout=TIMEOUT)
        self._scene: Scene | None = None
        self._change = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._labels: list[tuple[float, str, int, str]] = []  # (due, request id, value, period), a heap
        self._stopping = False
        self.sent: list[Sent] = []
        self.tallies: dict[str, Tally] = {}

    def play(self, scene: Scene) -> None:
        """Goes on with *scene* at once."""
        self._scene = scene
        self._change.set()

    def pause(self) -> None:
        """Sends no more until the next ``play``; what is in flight is still counted."""
        self._scene = None
        self._change.set()

    def stop(self) -> None:
        """``run`` ends after what is in flight and the labels that are due."""
        self._stopping = True
        self.pause()

    async def run(self) -> None:
        """Sends until ``stop``."""
        labels = asyncio.create_task(self._post_labels())
        while not self._stopping:
            self._change.clear()
            if self._scene is None:
                await self._change.wait()
                continue
            await self._play(self._scene)
        if self._tasks:
            await asyncio.gather(*self._tasks)
        await labels
        self._gateway.close()
        self._receiver.close()

    async def _play(self, scene: Scene) -> None:
        """One scene until another is asked for."""
        rows = self._flights[self._days >= f"2013-{scene.first}"].iloc[:: scene.stride]
        index, lag = rows.index.to_numpy(), rows["air_minutes"].to_numpy() * 60.0 / self._speed(scene)
        columns = [rows[name].to_numpy() for name in ("day", "tailnum", "late")]
        tally = self.tallies.setdefault(scene.period, Tally())
        start, count, encoded = time.time(), 0, bodies(rows)
        while not self._change.is_set():
            at = count % len(rows)
            if at == 0 and count:
                encoded = bodies(rows)
            due = start + count / self._rate
            ahead = due - time.time()
            if ahead > 0:
                await asyncio.sleep(ahead)
                if self._change.is_set():
                    return
            day, tail, late = (column[at] for column in columns)
            request = Sent(scene.period, int(index[at]), day, due, time.time(), 0.0, "", request_id=str(uuid.uuid4()))
            task = asyncio.create_task(self._exchange(request, next(encoded), tail, int(late), lag[at], tally))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            count += 1
            if ahead <= 0:
                await asyncio.sleep(0)

    def _speed(self, scene: Scene) -> float:
        """Simulated seconds in one real second."""
        return DAY / (self._per_day / scene.stride / self._rate)

    async def _exchange(self, request: Sent, body: bytes, user: str, label: int, lag: float, tally: Tally) -> None:
        headers = {"x-user-id": user, "x-request-id": request.request_id}
        if time.time() - request.due > MAX_LATE:
            self._count(request, "late", None, tally)
            return
        try:
            answer = await self._gateway.post(self._path, body, headers)
        except ExchangeError as error:
            self._count(request, error.kind, None, tally)
            return
        done = self._count(request, "" if 200 <= answer.status < 300 else f"http {answer.status}", answer, tally)
        if not done.failure:
            heapq.heappush(self._labels, (done.done + lag, done.request_id, label, done.period))

    def _count(self, request: Sent, failure: str, answer: Answer | None, tally: Tally) -> Sent:
        headers = answer.headers if answer is not None else {}
        prediction = None
        if answer is not None and not failure:
            try:
                prediction = int(orjson.loads(answer.body)["predictions"][0])
            except (ValueError, KeyError, TypeError, IndexError):
                failure = "malformed"
        done = Sent(
            request.period,
            request.flight,
            request.day,
            request.due,
            request.sent,
            time.time(),
            failure,
            answer.status if answer is not None else 0,
            headers.get("x-shipway-version", ""),
            headers.get("x-shipway-arm", ""),
            headers.get("x-shipway-fallback", ""),
            headers.get("x-request-id", request.request_id),
            prediction,
        )
        self.sent.append(done)
        tally.add(done)
        return done

    async def _post_labels(self) -> None:
        """Posts labels as they come due; the last ones at the stop, due or not."""
        while not (self._stopping and not self._tasks):
            await asyncio.sleep(LABEL_SECONDS)
            await self._post_due(time.time())
        await self._post_due(float("inf"))

    async def _post_due(self, now: float) -> None:
        while self._labels and self._labels[0][0] <= now:
            batch: list[tuple[float, str, int, str]] = []
            while self._labels and self._labels[0][0] <= now and len(batch) < LABEL_BATCH:
                batch.append(heapq.heappop(self._labels))
            posted = await self._post(orjson.dumps({"labels": [{"request_id": r, "value": v} for _, r, v, _ in batch]}))
            for *_, period in batch:
                tally = self.tallies[period]
                tally.labels += posted
                tally.labels_failed += not posted

    async def _post(self, body: bytes) -> bool:
        """Labels are facts that may come late: tried again while the receiver is away, unlike requests."""
        for attempt in range(LABEL_TRIES):
            try:
                answer = await self._receiver.post("/labels", body, {})
            except ExchangeError:
                answer = None
            if answer is not None and 200 <= answer.status < 300:
                return True
            if self._stopping and attempt >= 1:
                return False
            await asyncio.sleep(0.5)
        return False
