import json
import time
from dataclasses import replace

import pytest

from bentos.policy.gates import StickyKey
from bentos.policy.serving import Limits
from infra.targets.interface import Address
from infra.traffic import Arm, TrafficPlan, TrafficPlanError

BASELINE = Arm("baseline", "1", "flights-1-aaaaaaaa", Address(uds="/a.sock"), 90)
CANDIDATE = Arm("candidate", "2", "flights-2-bbbbbbbb", Address(host="127.0.0.1", port=80), 10, 12.5)


def test_a_plan_survives_json():
    plan = TrafficPlan("flights", (BASELINE, CANDIDATE), StickyKey(), Limits(requests_per_second=7), time.time())
    assert TrafficPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert TrafficPlan.from_json(plan.settled().to_json()) == plan.settled()


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ((), "found \\[\\]"),
        ((CANDIDATE,), "found \\['candidate'\\]"),
        ((CANDIDATE, BASELINE), "in that order"),
        ((BASELINE, BASELINE), "in that order"),
        ((BASELINE,), "sum to 100, found 90 = 90"),
        ((BASELINE, replace(CANDIDATE, weight=20)), "found 90 \\+ 20 = 110"),
        ((replace(BASELINE, weight=101), replace(CANDIDATE, weight=-1)), "must lie in 0..100"),
        ((BASELINE, replace(CANDIDATE, mirror_percent=101.0)), "must lie in 0..100"),
        ((replace(BASELINE, mirror_percent=1.0), CANDIDATE), "mirror to the baseline"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(arms, message):
    with pytest.raises(TrafficPlanError, match=message):
        TrafficPlan("flights", arms, expires_at=1.0)


@pytest.mark.parametrize(("weight", "mirror"), [(10, 0.0), (0, 1.0)])
def test_candidate_traffic_without_an_end_is_refused(weight, mirror):
    arms = (replace(BASELINE, weight=100 - weight), replace(CANDIDATE, weight=weight, mirror_percent=mirror))
    with pytest.raises(TrafficPlanError, match="lease"):
        TrafficPlan("flights", arms)


def test_two_arms_of_one_deployment_are_refused():
    with pytest.raises(TrafficPlanError, match="same deployment"):
        TrafficPlan("flights", (BASELINE, replace(CANDIDATE, deployment=BASELINE.deployment)), expires_at=1.0)


def test_a_lease_ends_and_settles_on_the_baseline():
    plan = TrafficPlan("flights", (BASELINE, CANDIDATE), expires_at=100.0)
    assert not plan.lapsed(99.9)
    assert plan.lapsed(100.0)
    settled = plan.settled()
    assert settled.arms == (replace(BASELINE, weight=100),)
    assert settled.candidate is None
    assert not settled.lapsed(1e12)


@pytest.mark.parametrize("values", [{}, {"model": "m", "arms": [{}]}, {"model": "m", "arms": None}])
def test_what_is_no_plan_is_refused(values):
    with pytest.raises(TrafficPlanError, match="not a traffic plan"):
        TrafficPlan.from_json(values)
