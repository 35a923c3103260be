"""What every target must do, shown on the real ones and on the fake."""

import threading
import time
from dataclasses import replace

import pytest

from infra.targets.interface import PermanentTargetError, State, TransientTargetError
from infra.targets.memory import MemoryTarget
from infra.targets.several import SeveralTargets


@pytest.fixture(params=["memory", "process", "docker", "several"])
def kind(request):
    return request.param


@pytest.fixture
def target(kind, request):
    match kind:
        case "memory":
            return MemoryTarget()
        case "process":
            return request.getfixturevalue("make_target")()
        case "docker":
            return request.getfixturevalue("make_docker_target")()
    processes = request.getfixturevalue("make_target")()
    return SeveralTargets({"memory": MemoryTarget(), "process": processes}, "process")


@pytest.fixture
def spec_of(kind, spec_of, request):
    return request.getfixturevalue("container_spec_of") if kind == "docker" else spec_of


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


real = pytest.mark.parametrize("kind", ["process", "docker"])  # what starts servers of its own


@pytest.fixture
def make_real_target(kind, request):
    """Makes targets that start servers for real; each looks at the same folder."""
    return request.getfixturevalue("make_target" if kind == "process" else "make_docker_target")


@real
def test_a_server_that_is_not_ready_in_time_is_no_failure(make_real_target, spec_of):
    target = make_real_target()
    name = target.ensure(spec_of(READY="no")).name
    with pytest.raises(TransientTargetError, match="not ready after 1 s"):
        target.ready(name, 1)
    assert target.list()[0].state is State.STARTING


@real
def test_draining_lets_a_request_finish_and_is_not_undone_by_restore(make_real_target, spec_of, ask):
    target = make_real_target()
    name = target.ensure(spec_of()).name
    deployment, answers = target.ready(name, 10), []
    slow = threading.Thread(target=lambda: answers.append(ask(deployment, "/slow")))
    slow.start()
    time.sleep(0.15)
    target.drain(name, 10)
    slow.join()
    assert "segments" in answers[0]
    assert "finished" in target.logs(name)
    assert target.restore() == []
    assert target.list()[0].state is State.DRAINING


@real
def test_concurrent_ensures_start_one_server(make_real_target, spec_of):
    spec = spec_of()
    threads = [threading.Thread(target=make_real_target().ensure, args=(spec,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    target = make_real_target()
    target.ready(spec.name, 10)
    assert target.logs(spec.name).count("started") == 1


@real
def test_arguments_reach_the_server_and_make_another_deployment(make_real_target, spec_of, ask):
    target, plain = make_real_target(), spec_of()
    spec = replace(plain, arguments=("--queue", "8"))
    assert spec.name != plain.name
    for wanted, said in ((plain, "'others': []"), (spec, "'others': ['--queue', '8']")):
        target.ensure(wanted)
        assert said in ask(target.ready(wanted.name, 10))
    assert len(target.list()) == 2
    assert target.ensure(spec).name == spec.name  # as its record says
