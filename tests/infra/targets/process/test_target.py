"""Real processes: what lives, what dies, and what is found again."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.processes import MARK, identity, mark
from infra.stack import part_process
from infra.stack.part import Part
from infra.stack.supervisor import Supervisor
from infra.targets.interface import PermanentTargetError, State
from infra.targets.process import target as process
from infra.targets.readiness import answers_ready


def processes(deployment):
    """The pids of a deployment's keeper and server."""
    state = json.loads((Path(deployment.address.uds).parent / "state.json").read_text())
    return state["keeper"]["pid"], state["server"]["pid"]


def wait_until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_server_gets_its_command_line_and_no_secret(make_target, spec_of, tmp_path, monkeypatch, ask):
    monkeypatch.setenv("SHIPWAY_SECRET", "hush")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    target = make_target(environment={"EVERY": "server"})
    target.ensure(spec_of(EXTRA="mine"))
    answer = ask(target.ready(spec_of().name, 10))
    assert f"'segments': '{tmp_path}/segments/flights/1'" in answer
    assert "'EXTRA': 'mine'" in answer and "'EVERY': 'server'" in answer
    assert "hush" not in answer and "PYTHONDONTWRITEBYTECODE" not in answer
    assert stat.S_IMODE((tmp_path / "deployments" / spec_of().name).stat().st_mode) == 0o700
    assert "started flights-1-" in target.logs(spec_of().name)


def test_it_survives_the_process_that_started_it(make_target, spec_of, tmp_path):
    program = textwrap.dedent(
        f"""
        from pathlib import Path
        from infra.targets.interface import DeploymentSpec
        from infra.targets.process.target import ProcessTarget
        target = ProcessTarget(Path({str(tmp_path / "deployments")!r}), segments=Path({str(tmp_path / "segments")!r}))
        target.ready(target.ensure({spec_of()!r}).name, 10)
        import os, signal
        os.killpg(os.getpgid(0), signal.SIGKILL)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], start_new_session=True, cwd=Path(__file__).parents[4])
    assert done.returncode == -signal.SIGKILL
    assert make_target().ready(spec_of().name, 1).restarts == 0


def test_a_killed_server_is_started_again(make_target, spec_of):
    target = make_target()
    name = target.ensure(spec_of()).name
    before = target.ready(name, 10)
    state = Path(before.address.uds).parent / "state.json"
    wait_until(lambda: json.loads(state.read_text())["was_ready"])  # its keeper saw that too
    for times in (1, 2, 3, 4):
        os.kill(processes(target.ready(name, 10))[1], signal.SIGKILL)
        wait_until(lambda times=times: target.list()[0].restarts == times)
    after = target.ready(name, 10)
    assert (after.restarts, after.address) == (4, before.address)


def test_the_server_dies_with_its_keeper_and_is_restored(make_target, spec_of):
    target = make_target()
    name = target.ensure(spec_of()).name
    keeper_pid, server_pid = processes(target.ready(name, 10))
    os.kill(server_pid, signal.SIGSTOP)  # even a stopped one
    os.kill(keeper_pid, signal.SIGKILL)
    wait_until(lambda: identity(server_pid) is None)
    (found,) = target.list()
    assert found.state is State.FAILED
    assert "`shipway up`" in found.reason
    assert [deployment.name for deployment in target.restore()] == [name]
    assert target.ready(name, 10).state is State.READY
    assert target.restore() == []


def test_a_server_that_cannot_start_fails_with_the_end_of_its_log(make_target, spec_of):
    target = make_target()
    name = target.ensure(spec_of(FAIL="1")).name
    with pytest.raises(PermanentTargetError, match=r"(?s)3 times before it was ever ready.*no model here"):
        target.ready(name, 20)
    assert target.list()[0].state is State.FAILED


def test_a_python_that_is_not_there_is_named(make_target, spec_of):
    from dataclasses import replace

    target = make_target()
    name = target.ensure(replace(spec_of(), python="/nowhere/python")).name
    with pytest.raises(PermanentTargetError, match="/nowhere/python"):
        target.ready(name, 20)


def test_a_stopped_server_is_alive_but_not_ready(make_target, spec_of):
    target = make_target()
    name = target.ensure(spec_of()).name
    server = processes(target.ready(name, 10))[1]
    os.kill(server, signal.SIGSTOP)
    assert target.list()[0].state is State.STARTING
    os.kill(server, signal.SIGCONT)
    assert target.ready(name, 5).restarts == 0


def test_a_used_again_pid_is_never_trusted(make_target, spec_of, tmp_path):
    target = make_target()
    name = target.ensure(spec_of()).name
    target.ready(name, 10)
    target.stop_all()
    path = tmp_path / "deployments" / name / "state.json"
    state = json.loads(path.read_text())
    with subprocess.Popen(["sleep", "60"]) as stranger:
        state["keeper"] = {"pid": stranger.pid, "identity": "another boot/1"}
        state["server"] = state["keeper"]
        path.write_text(json.dumps(state))
        assert target.list()[0].state is State.FAILED
        target.remove(name)
        assert stranger.poll() is None
        stranger.kill()


def test_stopping_all_keeps_the_specs_and_removing_leaves_nothing(make_target, spec_of, tmp_path):
    target = make_target()
    pids = []
    for version in ("1", "2"):
        target.ensure(spec_of(version))
        pids += processes(target.ready(spec_of(version).name, 10))
    target.stop_all()
    assert [identity(pid) for pid in pids] == [None] * 4
    assert len(target.restore()) == 2
    for deployment in target.list():
        pids += processes(target.ready(deployment.name, 10))
        target.remove(deployment.name)
    assert [identity(pid) for pid in pids] == [None] * 8
    assert list((tmp_path / "deployments").iterdir()) == []


def test_a_deep_folder_works_through_a_short_socket(make_target, spec_of, tmp_path):
    target = make_target(tmp_path / ("deep" * 20))
    name = target.ensure(spec_of()).name
    deployment = target.ready(name, 10)
    assert len(deployment.address.uds) <= 107
    target.remove(name)
    assert not Path(deployment.address.uds).parent.exists()


def test_the_log_is_bounded(make_target, spec_of, tmp_path, monkeypatch, ask):
    monkeypatch.setattr(process, "LOG_BYTES", 1_500_000)
    target = make_target()
    name = target.ensure(spec_of()).name
    deployment = target.ready(name, 10)
    for _ in range(6):
        ask(deployment, "/chatter")
        time.sleep(0.3)
    sizes = [path.stat().st_size for path in (tmp_path / "deployments" / name).glob("server.log*")]
    assert len(sizes) == 2
    assert sum(sizes) < 5_000_000


@pytest.mark.parametrize("removed", ["server.log", "state.json", "keeper.lock", "."])
def test_what_is_removed_beside_a_server_ends_nothing(make_target, spec_of, removed):
    target = make_target()
    name = target.ensure(spec_of()).name
    deployment = target.ready(name, 10)
    home = Path(deployment.address.uds).parent
    keeper, server = processes(deployment)
    kept = (home / "deployment.json").read_text(), (home / "spec.json").read_text()
    if removed == ".":
        shutil.rmtree(home)
    else:
        (home / removed).unlink()
    time.sleep(1.0)  # five looks of the keeper
    assert identity(server) is not None and identity(keeper) is not None
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: (home / "state.json").exists() and answers_ready(deployment.address.uds, 1))
    (home / "deployment.json").write_text(kept[0])
    (home / "spec.json").write_text(kept[1])
    wait_until(lambda: target.list()[0].restarts == 1)
    after = target.ready(name, 10)
    assert (processes(after)[0], after.address) == (keeper, deployment.address)


def test_a_keeper_whose_folder_is_another_s_stops(make_target, spec_of):
    target = make_target()
    before = target.ready(target.ensure(spec_of()).name, 10)
    old = processes(before)
    shutil.rmtree(Path(before.address.uds).parent)
    after = target.ready(target.ensure(spec_of()).name, 10)
    wait_until(lambda: [identity(pid) for pid in old] == [None, None])
    assert target.ready(after.name, 10).state is State.READY
    assert processes(target.list()[0])[0] != old[0]


def test_a_full_disk_ends_no_server_and_is_forgotten_when_there_is_room(small_disk, make_target, spec_of, monkeypatch):
    monkeypatch.setattr(process, "LOG_BYTES", 300_000)
    target = make_target(small_disk.folder / "d")
    name = target.ensure(spec_of()).name
    deployment = target.ready(name, 10)
    keeper, server = processes(deployment)
    home = Path(deployment.address.uds).parent
    small_disk.fill(home / "server.log")
    time.sleep(0.5)
    os.kill(server, signal.SIGKILL)  # it comes again without a log, and its keeper cannot write its state
    wait_until(lambda: answers_ready(deployment.address.uds, 1))
    assert identity(keeper) is not None
    small_disk.free()
    wait_until(lambda: target.list()[0].restarts == 1)
    assert processes(target.ready(name, 10))[0] == keeper
    os.kill(processes(target.list()[0])[1], signal.SIGKILL)
    wait_until(lambda: target.list()[0].restarts == 2)
    after = target.ready(name, 10)
    small_disk.fill()
    (home / "server.log.1").unlink(missing_ok=True)
    with (home / "server.log").open("r+b") as log:  # as long as the disk allows, and no room for a copy
        log.truncate(900_000)
    wait_until(lambda: (home / "server.log").stat().st_size < 300_000)
    assert identity(processes(after)[1]) is not None


def test_the_end_of_a_stack_leaves_servers_that_flows_started_their_time(
    make_target, spec_of, tmp_path, ask, monkeypatch
):
    monkeypatch.setenv(MARK, mark(tmp_path, "worker"))  # as in a flow run
    target = make_target()
    deployment = target.ready(target.ensure(spec_of()).name, 10)
    worker = Part("worker", ("sleep", "60"), {}, tmp_path, tmp_path / "worker.log", lambda: True)
    with ThreadPoolExecutor() as asking:
        answer = asking.submit(ask, deployment, "/slowest")
        time.sleep(0.3)
        supervisor = Supervisor([worker], tmp_path, tmp_path)
        supervisor.tick()
        supervisor.end()
        target.stop_all()
        assert "segments" in answer.result()
    assert part_process.marked(tmp_path) == []


def test_down_finds_a_keeper_whose_folder_is_gone(make_target, spec_of, tmp_path, monkeypatch):
    monkeypatch.setenv(MARK, mark(tmp_path, "worker"))
    target = make_target()
    deployment = target.ready(target.ensure(spec_of()).name, 10)
    pids = processes(deployment)
    shutil.rmtree(Path(deployment.address.uds).parent)
    target.stop_all()
    part_process.end(part_process.marked(tmp_path), grace=5.0)
    assert [identity(pid) for pid in pids] == [None, None]
