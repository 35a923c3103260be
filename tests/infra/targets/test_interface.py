"""What every target must do, shown on the real one and on the fake."""

from dataclasses import replace

import pytest

from infra.targets.interface import PermanentTargetError, State
from infra.targets.memory import MemoryTarget


@pytest.fixture(params=["memory", "process"])
def target(request):
    return MemoryTarget() if request.param == "memory" else request.getfixturevalue("make_target")()


def test_a_deployment_becomes_ready_and_is_listed_once(target, spec_of):
    spec = spec_of()
    started = target.ensure(spec)
    assert (started.name, started.model, started.version) == (spec.name, "flights", "1")
    ready = target.ready(spec.name, 10)
    assert ready.state is State.READY
    assert target.ensure(spec) == ready
    assert target.list() == [ready]


def test_two_versions_live_side_by_side(target, spec_of):
    for version in ("2", "1"):
        target.ensure(spec_of(version))
        target.ready(spec_of(version).name, 10)
    first, second = target.list()
    assert (first.version, second.version) == ("1", "2")
    assert first.address != second.address


def test_a_drained_deployment_is_out_of_service_until_ensured_again(target, spec_of):
    name = target.ensure(spec_of()).name
    target.ready(name, 10)
    target.drain(name, 5)
    target.drain(name, 5)
    assert [deployment.state for deployment in target.list()] == [State.DRAINING]
    target.ensure(spec_of())
    assert target.ready(name, 10).state is State.READY


def test_a_removed_deployment_is_gone(target, spec_of):
    name = target.ensure(spec_of()).name
    target.remove(name)
    target.remove(name)
    target.drain(name, 1)
    assert list(target.list()) == []
    assert target.logs(name) == ""
    with pytest.raises(PermanentTargetError, match="no deployment"):
        target.ready(name, 1)


def test_another_spec_under_a_running_name_is_refused(target, spec_of):
    spec = spec_of()
    target.ensure(spec)
    with pytest.raises(PermanentTargetError, match="another spec"):
        target.ensure(replace(spec, environment={"THREADS": "2"}))
