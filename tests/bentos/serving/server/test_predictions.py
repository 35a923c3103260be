"""Which requests share a predict, and what happens to those that cannot be answered."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from bentos.serving.server.dataplane import DataPlane
from bentos.serving.server.messages import Answer, Request
from tests.bentos.planes import Client, Sums, live, post, served

SLOW = {1: 0.02, 8: 0.02, 32: 0.021}  # seconds: eight rows cost what one does
QUICK = {1: 1e-6, 8: 8e-6, 32: 32e-6}
MIDDLE = {1: 3e-4, 8: 3e-4, 32: 4e-4}


def body(value: float, rows: int = 1) -> bytes:
    return json.dumps({"instances": [[value, 0.5]] * rows}).encode()


def request(value: float, *, rows: int = 1, seconds: float | None = None, kind: str = "invocations") -> Request:
    return Request(kind, "application/json", "", "", body(value, rows), seconds=seconds)


async def ask(plane: DataPlane, *requests: Request) -> list[Answer]:
    """All at once, as many connections would."""
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[Answer]] = []
    for item in requests:
        futures.append(loop.create_future())
        plane.predict(plane.state.live, item, futures[-1].set_result)
    return list(await asyncio.gather(*futures))


def run(plane: DataPlane, *requests: Request) -> list[Answer]:
    try:
        return asyncio.run(ask(plane, *requests))
    finally:
        plane.close()


def values(answers: list[Answer]) -> list[Any]:
    return [json.loads(found.body.data).get("predictions", [None])[0] for found in answers]


@pytest.mark.parametrize("curve", [SLOW, MIDDLE], ids=["thread", "loop"])
def test_what_came_meanwhile_is_the_next_predict(curve: dict[int, float]) -> None:
    model = Sums(0.01)
    answers = run(DataPlane(live(model, curve)), *(request(n) for n in range(20, 60)))
    assert values(answers) == [n + 0.5 for n in range(20, 60)]
    assert sum(model.calls) == 40
    assert len(model.calls) <= 3


def test_inline_answers_each_request_as_it_comes() -> None:
    model = Sums()
    plane = DataPlane(live(model, QUICK), batching="inline")
    found: list[Answer] = []
    plane.predict(plane.state.live, request(1), found.append)
    assert values(found) == [1.5]
    plane.close()


def test_what_waits_for_nothing_but_the_loop_is_not_too_much() -> None:
    model = Sums()
    answers = run(DataPlane(live(model, QUICK), queue=3), *(request(n) for n in range(12)))
    assert [found.status for found in answers] == [200] * 12
    assert values(answers) == [n + 0.5 for n in range(12)]


def test_short_predicts_that_wait_are_answered_in_one_turn_of_the_loop() -> None:
    async def turns(plane: DataPlane) -> int:
        loop = asyncio.get_running_loop()
        count = 0

        def tick() -> None:
            nonlocal count
            count += 1
            if not all(future.done() for future in futures):
                loop.call_soon(tick)

        futures = [loop.create_future() for _ in range(8)]
        for number, future in enumerate(futures):
            plane.predict(plane.state.live, request(number), future.set_result)
        loop.call_soon(tick)
        await asyncio.gather(*futures)
        return count

    model = Sums()
    plane = DataPlane(live(model, QUICK))
    assert asyncio.run(turns(plane)) <= 2
    assert model.calls == [1] * 8
    plane.close()


def test_rows_that_depend_on_each_other_are_not_joined() -> None:
    model = Sums(0.001)
    run(DataPlane(live(model, SLOW, rowwise=False)), *(request(n) for n in range(8)))
    assert model.calls == [1] * 8


@pytest.mark.parametrize(("batching", "calls"), [("off", 8), ("inline", 8), ("batched", 1), ("auto", 8)])
def test_a_policy_decides_over_the_curve(batching: str, calls: int) -> None:
    model = Sums()
    answers = run(DataPlane(live(model, QUICK), batching=batching), *(request(n) for n in range(8)))
    assert values(answers) == [n + 0.5 for n in range(8)]
    assert len(model.calls) == calls


def test_one_request_that_fails_fails_alone() -> None:
    model = Sums()
    answers = run(DataPlane(live(model, SLOW)), *(request(n) for n in (11, 12, 13, 14)))
    assert [found.status for found in answers] == [200, 200, 500, 200]
    assert values(answers) == [11.5, 12.5, None, 14.5]


def test_requests_of_several_rows_and_protocols_share_a_predict() -> None:
    model = Sums()
    tensor = {"name": "x", "datatype": "FP64", "shape": [2, 2], "data": [1, 2, 3, 4]}
    infer = Request("v2", "", "", "", json.dumps({"inputs": [tensor]}).encode())
    answers = run(DataPlane(live(model, SLOW)), request(7, rows=3), infer, request(9))
    assert json.loads(answers[0].body.data) == {"predictions": [7.5] * 3}
    assert json.loads(answers[1].body.data)["outputs"][0]["data"] == [3, 7]
    assert model.calls == [6]


def test_a_long_body_is_decoded_beside_short_requests() -> None:
    long = Request("invocations", "application/json", "", "", body(7, 200_000))

    async def order(plane: DataPlane) -> list[int]:
        """The rows of the answers, as they come."""
        rows: list[int] = []
        ended = asyncio.Event()

        def took(answer: Answer) -> None:
            assert answer.status == 200
            rows.append(len(json.loads(answer.body.data)["predictions"]))
            if len(rows) == 4:
                ended.set()

        plane.predict(plane.state.live, long, took)
        for number in range(3):
            plane.predict(plane.state.live, request(number), took)
        await ended.wait()
        return rows

    plane = DataPlane(live(Sums(), QUICK))
    assert asyncio.run(order(plane)) == [1, 1, 1, 200_000]
    plane.close()


def test_what_is_being_decoded_waits_too() -> None:
    long = Request("invocations", "application/json", "", "", body(7, 50_000))
    answers = run(DataPlane(live(Sums(), QUICK), queue=2), long, long, long)
    assert sorted(found.status for found in answers) == [200, 200, 429]


def test_a_full_queue_is_429_with_the_time_to_come_back() -> None:
    plane = DataPlane(live(Sums(0.05), {1: 0.05}, rowwise=False), queue=3)
    answers = run(plane, *(request(n) for n in range(6)))
    assert sorted(found.status for found in answers) == [200] * 4 + [429] * 2  # one in flight, three that wait
    refused = next(found for found in answers if found.status == 429)
    assert dict(refused.headers)[b"retry-after"] == b"1"
    assert json.loads(refused.body.data)["error_code"] == "REQUEST_LIMIT_EXCEEDED"


def test_a_full_queue_before_a_model_that_could_not_be_measured_is_429_too() -> None:
    plane = DataPlane(live(Sums(0.05), {}), queue=3, deadline=7)
    answers = run(plane, *(request(n) for n in range(6)))
    assert sorted(found.status for found in answers) == [200] * 4 + [429] * 2
    refused = next(found for found in answers if found.status == 429)
    assert dict(refused.headers)[b"retry-after"] == b"7", "by then nobody of now waits any more"


def test_who_is_late_no_longer_counts_among_those_that_wait() -> None:
    async def statuses(plane: DataPlane) -> list[int]:
        first = asyncio.ensure_future(ask(plane, *(request(n, seconds=s) for n, s in ((1, 5), (2, 0.05), (3, 0.05)))))
        await asyncio.sleep(0.2)  # the first is still predicted, and nobody waits
        behind = await ask(plane, request(4), request(5), request(6))
        return [found.status for found in (*await first, *behind)]

    plane = DataPlane(live(Sums(0.4), {1: 0.4}, rowwise=False), queue=2)
    assert asyncio.run(statuses(plane)) == [200, 504, 504, 200, 200, 429]
    plane.close()


def test_one_bad_row_among_many_costs_a_few_predicts_and_no_server() -> None:
    model = Sums(0.02)
    plane = DataPlane(live(model, SLOW | {400: 0.02}), deadline=2)
    answers = run(plane, *(request(13 if n == 77 else 20 + n) for n in range(400)))
    assert [found.status for found in answers] == [500 if n == 77 else 200 for n in range(400)]
    assert len(model.calls) < 60
    assert not plane.state.dead


def test_predicts_one_after_the_other_are_no_hang() -> None:
    async def most(plane: DataPlane) -> float:
        asking, longest = asyncio.ensure_future(ask(plane, *(request(13) for _ in range(32)))), 0.0
        while not asking.done():
            await asyncio.sleep(0.01)
            longest = max(longest, plane.state.predicting())
        assert len(await asking) == 32
        return longest

    plane = DataPlane(live(Sums(0.05), SLOW), deadline=10)
    assert asyncio.run(most(plane)) < 1.0, "63 predicts of 0.05 s"
    plane.close()


def test_after_a_long_predict_on_the_loop_the_others_run_beside_it() -> None:
    class Sometimes(Sums):
        def predict(self, data: Any, params: Any, *, probabilities: bool = False) -> Any:
            self.seconds = 1.2 if data.matrix("f8")[0, 0] == 99 else 0.0
            return super().predict(data, params, probabilities=probabilities)

    async def longest(plane: DataPlane) -> float:
        await ask(plane, request(99))
        asking, gap = asyncio.ensure_future(ask(plane, request(99))), 0.0
        while not asking.done():
            began = time.perf_counter()
            await asyncio.sleep(0.01)
            gap = max(gap, time.perf_counter() - began)
        return gap

    plane = DataPlane(live(Sometimes(), QUICK))
    assert asyncio.run(longest(plane)) < 0.8, "the loop does not stand still a second time"
    plane.close()


def test_a_deadline_that_passes_is_504_and_the_model_is_not_asked() -> None:
    model = Sums(0.2)
    plane = DataPlane(live(model, {1: 0.2}, rowwise=False), deadline=10)
    began = time.perf_counter()
    answers = run(plane, request(1), request(2, seconds=0.05), request(3))
    assert [found.status for found in answers] == [200, 504, 200]
    assert 0.35 < time.perf_counter() - began < 0.6
    assert model.calls == [1, 1]


def test_a_predict_that_outlasts_the_deadline_is_504() -> None:
    async def timed(plane: DataPlane) -> tuple[list[Answer], float]:
        began = time.perf_counter()
        return await ask(plane, request(1)), time.perf_counter() - began

    plane = DataPlane(live(Sums(0.5), {1: 0.5}), deadline=0.1)
    answers, took = asyncio.run(timed(plane))
    plane.close()
    assert answers[0].status == 504
    assert took < 0.4


def test_health_is_there_during_a_long_predict() -> None:
    with served(DataPlane(live(Sums(1.0), {1: 1.0}))) as port, Client(port) as slow, Client(port) as client:
        slow.send(post())
        time.sleep(0.05)
        began = time.perf_counter()
        for _ in range(20):
            assert client.send(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").answer()[0] == 200
        assert time.perf_counter() - began < 0.5
        assert slow.answer()[0] == 200


def test_a_large_body_does_not_stop_the_loop() -> None:
    def small(port: int, count: int) -> float:
        with Client(port) as client:
            began = time.perf_counter()
            for _ in range(count):
                client.send(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").answer()
            return (time.perf_counter() - began) / count

    with served(DataPlane(live(Sums(), QUICK))) as port, Client(port, 60) as large:
        large.send(post(body(1.25, rows=200_000)))
        assert small(port, 20) < 0.2
        assert large.answer()[0] == 200


def test_a_live_version_reads_its_curve() -> None:
    assert not live(Sums(), QUICK).joins
    assert live(Sums(), SLOW).joins
    assert not live(Sums(), SLOW, rowwise=False).joins
    assert live(Sums(), SLOW).seconds(32) == pytest.approx(0.021)
    assert live(Sums(), {1: 0.01, 32: 0.32}).most_rows <= 16
    assert live(Sums(), {}).seconds(1) == float("inf")


def test_what_waits_behind_a_long_predict_has_its_deadline_too() -> None:
    long = Request("invocations", "application/json", "", "", body(1, rows=2000))
    plane = DataPlane(live(Sums(0.4), {1: 1e-6, 2000: 0.4}, rowwise=False), deadline=10)
    began = time.perf_counter()

    async def timed() -> list[tuple[int, float]]:
        loop = asyncio.get_running_loop()
        found: list[tuple[int, float]] = []
        done = loop.create_future()

        def end(answer: Answer) -> None:
            found.append((answer.status, time.perf_counter() - began))
            if len(found) == 2:
                done.set_result(None)

        plane.predict(plane.state.live, long, end)
        plane.predict(plane.state.live, request(2, seconds=0.1), end)
        await done
        return found

    first, second = asyncio.run(timed())
    plane.close()
    assert first[0] == 504 and first[1] < 0.3
    assert second[0] == 200


@pytest.mark.parametrize("curve", [QUICK, SLOW], ids=["at once", "thread"])
def test_a_panic_of_a_models_library_is_a_500_and_the_next_request_is_answered(curve: dict[int, float]) -> None:
    class PanicError(BaseException):
        """What pyo3 raises."""

    class Panics(Sums):
        def predict(self, data: Any, params: Any, *, probabilities: bool = False) -> Any:
            if data.matrix("f8")[0, 0] == 1:
                raise PanicError
            return super().predict(data, params, probabilities=probabilities)

    plane = DataPlane(live(Panics(), curve, rowwise=False))
    answers = run(plane, request(1), request(2))
    assert [found.status for found in answers] == [500, 200]
