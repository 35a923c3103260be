"""Who joins whom, without a loop: order, limits, and those that wait no more."""

from __future__ import annotations

from bentos.serving.server.batcher import Batcher, Item
from bentos.serving.server.formats import read
from bentos.serving.server.messages import Request
from tests.bentos.planes import Sums, live

JOINS = {1: 0.02, 8: 0.02, 32: 0.021}
SERVED, ALONE = live(Sums(), JOINS), live(Sums(), {1: 1e-6, 8: 8e-6})


def item(served=SERVED, rows: int = 1, seconds: float = 10.0) -> Item:
    body = b'{"instances":[' + b",".join([b"[1.5,2.0]"] * rows) + b"]}"
    found = Item(served, Request("invocations", "application/json", "", "", body), lambda _: None, seconds)
    found.work = read(served, found.request)
    return found


def taken(batcher: Batcher, now: float = 0.0) -> tuple[list[Item], list[Item]]:
    late: list[Item] = []
    return batcher.take(now, late.append), late


def test_rows_that_can_be_joined_are_one_batch_in_their_order() -> None:
    batcher, items = Batcher("auto"), [item(), item(rows=3), item()]
    for each in items:
        batcher.add(each)
    assert len(batcher) == 3
    assert taken(batcher) == (items, [])
    assert (len(batcher), taken(batcher)) == (0, ([], []))


def test_what_is_cheap_goes_one_by_one() -> None:
    for batching, served in (("auto", ALONE), ("off", SERVED), ("inline", SERVED)):
        batcher, items = Batcher(batching), [item(served), item(served)]
        for each in items:
            batcher.add(each)
        assert [taken(batcher)[0] for _ in range(2)] == [[items[0]], [items[1]]]


def test_who_was_answered_where_it_stands_is_neither_counted_nor_taken_nor_kept() -> None:
    batcher, items = Batcher("auto"), [item() for _ in range(1000)]
    for each in items:
        batcher.add(each)
    for each in items[1:]:
        each.ended = True
        batcher.forget(each)
    assert (len(batcher), list(batcher)) == (1, [items[0]])
    assert len(batcher._queue) < 150, "the bodies of those that left are not kept"
    more = item()
    batcher.add(more)
    assert taken(batcher) == ([items[0], more], [])
    assert len(batcher) == 0


def test_whose_deadline_has_passed_is_late_and_not_predicted() -> None:
    batcher, first, second = Batcher("auto"), item(seconds=1.0), item(seconds=100.0)
    batcher.add(first)
    batcher.add(second)
    assert taken(batcher, first.started + 50) == ([second], [first])
