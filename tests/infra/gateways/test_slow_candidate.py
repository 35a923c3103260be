"""The time-out of a split as a release derives it from its shadow, on the real Envoy before servers that take a second."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest

from bentos.policy.release import ReleasePolicy
from flows.release.candidate_timeout import candidate_timeout
from tests.monitoring.conftest import build_evidence


@pytest.fixture
def derived():
    """The time-out beside a baseline whose answers took 0.8 to 1.1 s in the shadow."""
    took = np.linspace(800.0, 1100.0, 100)
    found = candidate_timeout(ReleasePolicy(), build_evidence(n=100, baseline_ms=took, candidate_ms=took))
    assert 6.0 < found.seconds < 7.0, found
    return found.seconds


def test_a_slow_honest_candidate_answers_its_share_itself(envoy, serve, plan_of, derived):
    gateway, client = envoy
    first, second = serve("1", "2")
    plan = plan_of(first, second, weight=50, candidate_timeout_seconds=derived)
    gateway.apply(plan)
    for server in (first, second):
        server.get("/mode/slow")
    with client.open_loop(f"/models/{plan.model}/invocations", rate=20) as answers:
        time.sleep(4.0)
    assert answers.failed == {}
    assert answers.fallbacks == 0
    assert min(answers.arms["1"], answers.arms["2"]) > 10
    assert gateway.stats(plan.model)[plan.candidate.deployment].timeouts == 0


def test_one_that_hangs_costs_its_users_the_time_out_and_is_counted(envoy, serve, plan_of, derived):
    gateway, client = envoy
    first, second = serve("1", "2")
    plan = plan_of(first, second, weight=100, candidate_timeout_seconds=derived)
    gateway.apply(plan)
    first.get("/mode/slow")
    second.get("/mode/hangs")
    began, found = time.monotonic(), Counter()
    for _ in range(2):
        status, headers, _ = client.ask(f"/models/{plan.model}/invocations", body="{}")
        found[status, headers["x-shipway-version"], headers["x-shipway-fallback"]] += 1
    assert found == {(200, "1", "candidate/2"): 2}
    assert (time.monotonic() - began) / 2 < plan.limits.timeout_seconds
    assert gateway.stats(plan.model)[plan.candidate.deployment].timeouts == 2
