"""What every gateway must do, shown on the real one and on the fake."""

import threading
import time

import pytest

from infra.gateways.interface import PermanentGatewayError, TransientGatewayError
from infra.gateways.memory import MemoryGateway


@pytest.fixture(params=["memory", "envoy"])
def gateway(request):
    """A gateway, two servers' stand-ins that are ready, and one that is not."""
    if request.param == "memory":
        return MemoryGateway(lambda deployment: "-3-" not in deployment), "1", "2", "3"
    envoy, _ = request.getfixturevalue("envoy")
    first, second = request.getfixturevalue("serve")("1", "2")
    return envoy, first, second, "3"


def test_a_plan_is_read_back_as_applied(gateway, plan_of):
    doors, first, second, _ = gateway
    for plan in (
        plan_of(first),
        plan_of(first, second, mirror=12.5),
        plan_of(first, second, weight=50),
        plan_of(second),
    ):
        doors.apply(plan)
        doors.apply(plan)
        assert doors.plan(plan.model) == plan
        assert doors.plans()[plan.model] == plan
        assert set(doors.stats(plan.model)) >= {arm.deployment for arm in plan.arms}


@pytest.mark.parametrize("traffic", [{"mirror": 100.0}, {"weight": 10}])
def test_an_arm_that_is_not_ready_gets_nothing_and_the_routes_stay(gateway, plan_of, traffic):
    doors, first, _, dead = gateway
    before = plan_of(first)
    doors.apply(before)
    with pytest.raises(TransientGatewayError, match="routes are as they were"):
        doors.apply(plan_of(first, dead, **traffic), timeout=0.5)
    assert doors.plan(before.model) == before


def test_a_baseline_that_is_not_ready_is_not_promoted(gateway, plan_of):
    doors, first, _, dead = gateway
    before = plan_of(first)
    doors.apply(before)
    with pytest.raises(TransientGatewayError):
        doors.apply(plan_of(dead), timeout=0.5)
    assert doors.plan(before.model) == before


def test_a_lease_that_is_not_renewed_ends_at_the_baseline(gateway, plan_of):
    doors, first, second, _ = gateway
    now = time.time()
    plan = plan_of(first, second, weight=20, mirror=30.0, expires_at=now + 30)
    doors.apply(plan)
    assert plan.model not in doors.lapse(now + 29)
    doors.renew(plan.model, now + 60)
    assert doors.plan(plan.model).expires_at == now + 60
    assert plan.model not in doors.lapse(now + 59)
    assert doors.lapse(now + 60).count(plan.model) == 1
    assert doors.plan(plan.model) == plan.settled()
    with pytest.raises(PermanentGatewayError, match="no lease"):
        doors.renew(plan.model, now + 90)


def test_a_removed_model_is_gone_and_removing_it_again_is_no_error(gateway, plan_of):
    doors, first, _, _ = gateway
    plan = plan_of(first)
    doors.apply(plan)
    doors.remove(plan.model)
    doors.remove(plan.model)
    assert doors.plan(plan.model) is None
    assert plan.model not in doors.plans()


def test_a_plan_can_be_read_at_any_moment_of_a_change(gateway, plan_of):
    doors, first, second, _ = gateway
    plan = plan_of(first, second, weight=20, mirror=30.0, expires_at=time.time() + 60)
    doors.apply(plan.settled())
    done, failed, seen = threading.Event(), [], set()

    def read():
        while not done.is_set():
            try:
                seen.add(doors.plan(plan.model).candidate is not None)
            except Exception as error:
                failed.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(5):
        doors.apply(plan)
        doors.apply(plan.settled())
    done.set()
    reader.join()
    assert not failed and seen


@pytest.mark.parametrize("traffic", [{"mirror": 100.0}, {"weight": 50}])
def test_a_candidate_is_withdrawn_at_once_and_that_twice_is_no_error(gateway, plan_of, traffic):
    doors, first, second, _ = gateway
    doors.withdraw("nobody")
    plan = plan_of(first, second, **traffic)
    doors.apply(plan)
    doors.withdraw(plan.model)
    doors.withdraw(plan.model)
    assert doors.plan(plan.model) == plan.settled()


def test_a_retreat_that_fails_gives_the_candidate_nothing_back(gateway, plan_of):
    doors, first, second, dead = gateway
    plan = plan_of(first, second, weight=50)
    doors.apply(plan)
    with pytest.raises(TransientGatewayError):
        doors.apply(plan_of(dead), timeout=0.5)  # the baseline's server was replaced, and its new one is not ready
    assert doors.plan(plan.model) == plan.settled()


def test_a_step_forward_that_fails_leaves_the_candidate_its_share(gateway, plan_of):
    doors, first, second, dead = gateway
    plan = plan_of(first, second, weight=20)
    doors.apply(plan)
    with pytest.raises(TransientGatewayError):
        doors.apply(plan_of(dead, second, weight=50), timeout=0.5)
    assert doors.plan(plan.model) == plan
