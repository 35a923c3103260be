"""Who may go on with an open release, and what a version was promoted under."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from bentos.policy.release import ReleasePolicy
from flows.release.line import Line
from flows.release.opening import may_take_over, promoted_under, waiting
from flows.release.owner import this_owner
from monitoring.ledger.memory import MemoryLedger
from monitoring.ledger.release import Release

DEAD = {"flow_run_id": "old", "pid": "1", "identity": "0.5", "host": this_owner("")["host"]}


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


def test_a_version_is_known_by_the_policy_that_it_was_last_promoted_under(tmp_path: Path) -> None:
    ledger = MemoryLedger(tmp_path)
    line = cast("Line", SimpleNamespace(ledger=ledger))
    for version, queue, outcome in (
        ("1", 5, "PROMOTED"),
        ("1", 6, "PROMOTED"),
        ("1", 7, "ROLLED_BACK"),
        ("2", 8, "PROMOTED"),
    ):
        policy = ReleasePolicy.model_validate({"serving": {"queue": queue}})
        opened = ledger.open(
            "m", version, baseline=None, policy=policy, policy_source=f"file {queue}", digests={}, owner=this_owner("f")
        )
        ledger.close(opened, outcome, "")
    found = promoted_under(line, "m", "1")
    assert found is not None
    assert (found[0].serving.queue, found[1]) == (6, "as m/1, attempt 2: file 6")
    assert promoted_under(line, "m", "3") is None
