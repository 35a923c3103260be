"""The replay's client against a server that answers, fails, resets, stalls and closes, as it is asked to."""

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import asynccontextmanager

import pandas as pd
import pytest

from examples.flights import replay as module
from examples.flights.features import INPUTS, NUMBERS, WORDS
from examples.flights.http_client import ExchangeError, HttpClient
from examples.flights.replay import Replay, Scene
from examples.flights.replay_process import ReplayProcess
from examples.flights.sent import last_answer, read_sent, write_sent

ANSWER = b'{"predictions":[1]}'
HEADERS = "x-shipway-version: 2\r\nx-shipway-arm: baseline\r\n"


def frame(rows: int = 400) -> pd.DataFrame:
    """Flights of two days, the second half late."""
    values = {name: ["UA"] * rows for name in WORDS} | {name: [1.0] * rows for name in NUMBERS}
    flights = pd.DataFrame(values)[list(INPUTS)]
    flights["day"] = ["2013-07-01"] * (rows // 2) + ["2013-07-02"] * (rows - rows // 2)
    flights["tailnum"] = [f"N{row}" for row in range(rows)]
    flights["air_minutes"] = 60.0
    flights["late"] = [0] * (rows // 2) + [1] * (rows - rows // 2)
    flights.loc[0, "temp"] = float("nan")
    return flights


class Server:
    """A real server on a free port; *behave* says what becomes of the n-th invocation."""

    def __init__(self, behave: Callable[[int], str]) -> None:
        self.behave, self.invocations, self.bodies = behave, 0, []
        self.ids, self.labels, self.connections, self.refuse_labels = [], {}, 0, 0
        self.tasks = set()

    async def serve(self, reader, writer):
        self.connections += 1
        self.tasks.add(asyncio.current_task())
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path, headers = self._parse(head)
                body = await reader.readexactly(int(headers["content-length"]))
                if not await self._answer(path, headers, body, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _parse(self, head: bytes):
        first, *lines = head.decode().strip().split("\r\n")
        return first.split()[1], dict(line.split(": ", 1) for line in lines)

    async def _answer(self, path, headers, body, writer) -> bool:
        if path == "/labels":
            self.refuse_labels -= 1
            if self.refuse_labels >= 0:
                writer.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n")
                return True
            self.labels |= {one["request_id"]: one["value"] for one in json.loads(body)["labels"]}
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            return True
        self.invocations += 1
        self.ids.append(headers["x-request-id"])
        self.bodies.append(body)
        what = self.behave(self.invocations)
        if what == "reset":
            writer.transport.abort()
            return False
        if what == "stall":
            await asyncio.sleep(30)
        if what == "nonsense":
            writer.write(b"SSH-2.0-hello\r\n")
            return False
        status, answer = (500, b"{}") if what == "error" else (200, b"[]" if what == "empty" else ANSWER)
        extra = "connection: close\r\n" if what == "close" else ""
        extra += "x-shipway-fallback: candidate/3\r\n" if what == "fallback" else ""
        head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(answer)}\r\n{HEADERS}{extra}\r\n"
        for piece in (head.encode()[:20], head.encode()[20:] + answer):  # an answer in two pieces
            writer.write(piece)
            await writer.drain()
        return what != "close"


@asynccontextmanager
async def serving(behave):
    server = Server(behave)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    try:
        yield server, f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()
        for task in list(server.tasks):
            task.cancel()
        await asyncio.gather(*server.tasks, return_exceptions=True)


async def replayed(url, flights, scenes, *, rate=400.0, seconds=0.5, receiver=None) -> Replay:
    replay = Replay(flights, gateway=url, receiver=receiver or url, rate=rate, model="flights")
    running = asyncio.create_task(replay.run())
    for scene in scenes:
        replay.play(scene)
        await asyncio.sleep(seconds)
    replay.stop()
    await running
    return replay


def test_every_answer_is_counted_in_time_order_at_the_rate():
    async def scenario():
        async with serving(lambda n: "ok") as (server, url):
            replay = await replayed(url, frame(), [Scene("first", "07-01"), Scene("second", "07-02", stride=2)])
            return server, replay

    server, replay = asyncio.run(scenario())
    first, second = replay.tallies["first"], replay.tallies["second"]
    assert first.failed == second.failed == 0
    assert 150 <= first.requests <= 210, "400 a second for half a second"
    assert server.invocations == first.requests + second.requests == len(replay.sent)
    assert [one.flight for one in replay.sent if one.period == "first"][:5] == [0, 1, 2, 3, 4]
    assert [one.flight for one in replay.sent if one.period == "second"][:3] == [200, 202, 204]
    assert first.versions == {"2": first.requests}
    assert server.connections < 60, "connections are kept alive"
    assert json.loads(server.bodies[0])["dataframe_split"]["data"][0][INPUTS.index("temp")] is None


def test_labels_come_back_once_for_every_answer():
    async def scenario():
        async with serving(lambda n: "ok") as (server, url):
            server.refuse_labels = 1  # the receiver is away for a moment
            return server, await replayed(url, frame(), [Scene("day", "07-02")])

    server, replay = asyncio.run(scenario())
    assert set(server.labels) == {one.request_id for one in replay.sent} == set(server.ids)
    assert set(server.labels.values()) == {1}
    assert replay.tallies["day"].labels == len(replay.sent)
    assert replay.tallies["day"].labels_failed == 0


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("reset", "reset"),
        ("error", "http 500"),
        ("nonsense", "malformed"),
        ("empty", "malformed"),
        ("stall", "timeout"),
    ],
)
def test_what_goes_wrong_is_a_failure_and_is_not_tried_again(monkeypatch, what, kind):
    monkeypatch.setattr(module, "TIMEOUT", 0.3)

    async def scenario():
        async with serving(lambda n: what if n % 10 == 0 else "ok") as (server, url):
            return server, await replayed(url, frame(), [Scene("bad", "07-01")], seconds=0.4)

    server, replay = asyncio.run(scenario())
    tally = replay.tallies["bad"]
    assert server.invocations == tally.requests, "every request was sent once"
    assert tally.failures == {kind: tally.requests // 10}
    assert tally.labels == tally.requests - tally.failed, "a request without an answer has no label"


def test_a_refused_connection_is_a_failure():
    async def scenario():
        async with serving(lambda n: "ok") as (_, receiver):
            return await replayed(
                "http://127.0.0.1:9", frame(), [Scene("away", "07-01")], seconds=0.2, receiver=receiver
            )

    tally = asyncio.run(scenario()).tallies["away"]
    assert tally.requests == tally.failed == tally.failures["refused"] > 0


def test_what_could_not_be_sent_on_time_is_a_failure_and_is_not_sent(monkeypatch):
    monkeypatch.setattr(module, "MAX_LATE", 0.1)

    async def scenario():
        async with serving(lambda n: "ok") as (server, url):
            replay = Replay(frame(), gateway=url, receiver=url, rate=200.0, model="flights")
            running = asyncio.create_task(replay.run())
            replay.play(Scene("held", "07-01"))
            await asyncio.sleep(0.1)
            time.sleep(0.5)  # nothing else runs for half a second
            await asyncio.sleep(0.2)
            replay.stop()
            await running
            return server, replay

    server, replay = asyncio.run(scenario())
    tally = replay.tallies["held"]
    assert 60 <= tally.failures["late"] <= 90, "0.4 s of 200 a second"
    assert server.invocations == tally.requests - tally.failed
    assert tally.requests >= 150, "the clock went on"


def test_answers_of_the_baseline_in_the_candidates_place_are_shown_apart():
    async def scenario():
        async with serving(lambda n: "fallback" if n % 4 == 0 else "close") as (server, url):
            return server, await replayed(url, frame(), [Scene("split", "07-01")], seconds=0.3)

    server, replay = asyncio.run(scenario())
    tally = replay.tallies["split"]
    assert tally.failed == 0
    assert tally.fallbacks == tally.requests // 4
    assert server.connections > tally.requests // 2, "a connection that the server closes is not used again"


def test_pausing_sends_nothing_until_the_next_scene():
    async def scenario():
        async with serving(lambda n: "ok") as (server, url):
            replay = Replay(frame(), gateway=url, receiver=url, rate=400.0, model="flights")
            running = asyncio.create_task(replay.run())
            replay.play(Scene("a", "07-01"))
            await asyncio.sleep(0.2)
            replay.pause()
            await asyncio.sleep(0.05)
            paused = server.invocations
            await asyncio.sleep(0.2)
            assert server.invocations == paused > 0
            replay.play(Scene("b", "07-01"))
            await asyncio.sleep(0.2)
            replay.stop()
            await running
            return replay

    assert asyncio.run(scenario()).tallies["b"].failures == {}


def test_an_idle_connection_that_the_server_closed_is_not_used(monkeypatch):
    async def scenario():
        async with serving(lambda n: "ok") as (server, url):
            client = HttpClient(url, timeout=2.0)
            await client.post("/a", b"{}", {"x-request-id": "1"})
            for connection in list(client._open):
                connection.transport.abort()
            await asyncio.sleep(0.05)
            assert (await client.post("/a", b"{}", {"x-request-id": "2"})).status == 200
            assert server.connections == 2
            server.behave = lambda n: "stall"
            short = HttpClient(url, timeout=0.1)
            with pytest.raises(ExchangeError, match=r"within 0\.1 s") as caught:
                await short.post("/a", b"{}", {"x-request-id": "3"})
            assert caught.value.kind == "timeout"
            client.close()
            short.close()

    asyncio.run(scenario())


def test_the_process_plays_counts_and_leaves_what_it_saw(tmp_path):
    flights, sent = tmp_path / "flights.parquet", tmp_path / "sent.parquet"
    frame().to_parquet(flights)

    async def scenario():
        async with serving(lambda n: "ok") as (server, url):
            process = ReplayProcess(flights=flights, sent=sent, gateway=url, receiver=url, rate=100.0, model="flights")
            try:
                process.play(Scene("one", "07-01"))
                counts = {}
                async with asyncio.timeout(20):
                    while counts.get("one", {}).get("requests", 0) < 30:
                        await asyncio.sleep(0.1)
                        counts = await asyncio.to_thread(process.counts)
                process.pause()
                await asyncio.to_thread(process.stop)
            finally:
                process.kill()
            return server

    server = asyncio.run(scenario())
    rows = read_sent(sent)
    assert len(rows) == server.invocations >= 30
    assert set(rows["prediction"]) == {1}
    end = rows["done"].max()
    assert last_answer(rows, "2", since=0.0, until=end) == end
    assert last_answer(rows, "2", since=end + 1, until=end + 2) is None
    assert last_answer(rows, "3", since=0.0, until=end) is None


def test_nothing_sent_still_gives_a_table(tmp_path):
    write_sent([], tmp_path / "sent.parquet")
    assert last_answer(read_sent(tmp_path / "sent.parquet"), "1", since=0.0, until=1.0) is None
