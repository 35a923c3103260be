"""Who may go on with an open release."""

from __future__ import annotations

import time

import pytest

from flows.opening import may_take_over, waiting
from flows.owner import this_owner
from monitoring.release import Release

DEAD = {"flow_run_id": "old", "pid": "1", "pid_start": "0.5", "host": this_owner("")["host"]}


def release(owner: dict[str, str], **facts: str) -> Release:
    return Release("run", "flights", "2", "1", 1, time.time(), facts=facts, owner=owner)


def test_a_dead_flows_release_is_gone_on_with() -> None:
    assert may_take_over(release(DEAD), "new", "2")


def test_a_living_flows_release_is_not() -> None:
    assert not may_take_over(release(this_owner("old")), "new", "2")


def test_another_version_is_not() -> None:
    assert not may_take_over(release(DEAD), "new", "3")


def test_a_flow_that_resumes_finds_its_own() -> None:
    assert may_take_over(release({**DEAD, "flow_run_id": "same"}), "same", "2")


@pytest.mark.parametrize(
    ("seconds_left", "facts", "expected"),
    [
        (None, {}, False),
        (60.0, {}, True),
        (-1.0, {}, False),
        (60.0, {"approved": "yes"}, False),
    ],
)
def test_a_release_that_waits_for_a_person_needs_no_process(
    seconds_left: float | None, facts: dict[str, str], expected: bool
) -> None:
    until = {} if seconds_left is None else {"waiting_until": repr(time.time() + seconds_left)}
    paused = release(DEAD, **until, **facts)
    assert waiting(paused) is expected
    assert may_take_over(paused, "new", "2") is not expected
