"""The plans of a release, over a target and a gateway in memory."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bentos.policy.release import ReleasePolicy
from flows.release import plans
from flows.release.line import Line
from flows.release.machine import Routes
from flows.release.world import deployed, routes_of
from infra.gateways.memory import MemoryGateway
from infra.targets.interface import DeploymentSpec, PermanentTargetError
from infra.targets.memory import MemoryTarget


@pytest.fixture
def line() -> Line:
    target = MemoryTarget()
    for version in ("1", "2"):
        spec = DeploymentSpec("flights", version, f"/bentos/{version}", f"sha256:{version * 16}", "/usr/bin/python3")
        target.ensure(spec)
        target.ready(spec.name, timeout=1)
    gateway = MemoryGateway(target.is_ready)
    return cast(Line, SimpleNamespace(target=target, gateway=gateway))


def applied(line: Any, plan: Any) -> Routes | None:
    line.gateway.apply(plan)
    return routes_of(line.gateway.plan("flights"))


def test_each_plan_reads_back_as_the_routes_it_was_made_for(line: Line) -> None:
    policy, soon = ReleasePolicy(), time.time() + 30
    assert routes_of(line.gateway.plan("flights")) is None
    assert applied(line, plans.alone(line, "flights", "1", policy)) == Routes("1")
    assert applied(line, plans.mirrored(line, "flights", "1", "2", policy, soon)) == Routes("1", "2", 0, 100.0)
    assert applied(line, plans.split(line, "flights", "1", "2", 10, policy, soon)) == Routes("1", "2", 10)
    assert applied(line, plans.alone(line, "flights", "2", policy)) == Routes("2")


def test_a_lapsed_plan_reads_back_as_the_baseline_alone(line: Line) -> None:
    policy = ReleasePolicy()
    line.gateway.apply(plans.split(line, "flights", "1", "2", 50, policy, time.time() + 1))
    assert line.gateway.lapse(time.time() + 2) == ["flights"]
    assert routes_of(line.gateway.plan("flights")) == Routes("1")


def test_a_version_that_is_not_ready_gets_no_traffic(line: Line) -> None:
    name = next(one.name for one in deployed(line, "flights") if one.version == "2")
    line.target.remove(name)
    with pytest.raises(
        PermanentTargetError, match="flights/2 gets no traffic: expected a ready deployment, found absent"
    ):
        plans.alone(line, "flights", "2", ReleasePolicy())


def test_versions_that_answer_come_first(line: Line) -> None:
    assert [one.version for one in deployed(line, "flights")] == ["1", "2"]
    assert deployed(line, "other") == []
