"""Several targets as one: what runs is found wherever it runs, what is new starts on the chosen one."""

from pathlib import Path

import pytest

from infra.images.interface import ImageSettings
from infra.targets.docker.settings import DockerSettings
from infra.targets.docker.target import DockerTarget
from infra.targets.interface import PermanentTargetError, State
from infra.targets.memory import MemoryTarget
from infra.targets.several import SeveralTargets


@pytest.fixture
def members(make_target):
    return {"old": MemoryTarget(), "new": make_target()}


def test_only_a_target_that_is_there_can_be_chosen(members):
    with pytest.raises(PermanentTargetError, match="expected one of new, old"):
        SeveralTargets(members, "newer")


def test_a_model_moves_from_one_target_to_another_between_two_versions(members, spec_of):
    before, after = spec_of("1"), spec_of("2")
    SeveralTargets(members, "old").ensure(before)
    target = SeveralTargets(members, "new")
    target.ensure(after)
    assert target.ready(before.name, 10).state is target.ready(after.name, 10).state is State.READY
    assert [found.name for found in target.list()] == [before.name, after.name]
    assert [found.name for found in members["new"].list()] == [after.name]
    assert "started flights-2" in target.logs(after.name)
    target.drain(before.name, 1)
    assert [found.state for found in target.list()] == [State.DRAINING, State.READY]
    target.remove(before.name)
    assert list(members["old"].list()) == []
    assert [found.name for found in target.list()] == [after.name]


def test_all_are_stopped_and_restored(members, spec_of):
    for name, version in (("old", "1"), ("new", "2")):
        SeveralTargets(members, name).ensure(spec_of(version))
    target = SeveralTargets(members, "new")
    target.stop_all()
    assert State.READY not in {found.state for found in target.list()}
    assert {found.name for found in target.restore()} >= {spec_of("2").name}
    for version in ("1", "2"):
        assert target.ready(spec_of(version).name, 10).state is State.READY


def test_an_engine_that_is_away_is_not_missed_by_what_runs_elsewhere(make_target, spec_of, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/dead.sock")
    docker = DockerTarget(
        Path(tmp_path / "containers"), segments=tmp_path, settings=DockerSettings(), images=ImageSettings()
    )
    target = SeveralTargets({"process": make_target(), "docker": docker}, "process")
    name = target.ensure(spec_of()).name
    assert target.ready(name, 10).state is State.READY
    target.stop_all()
    assert [found.name for found in target.restore()] == [name]
    target.remove(name)
    assert list(target.list()) == []
