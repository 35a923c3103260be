"""Real containers of a real engine: what they may do, what the engine keeps up, and what is found again."""

import gc
import os
import socket
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from infra.images.interface import ImageSettings
from infra.targets.docker.place import container_name, stack_of
from infra.targets.docker.settings import DockerSettings
from infra.targets.docker.target import DockerTarget
from infra.targets.interface import PermanentTargetError, State, TransientTargetError


@pytest.fixture
def inspect(docker_client, tmp_path):
    def find(name, folder=None):
        return docker_client.api.inspect_container(container_name(stack_of(folder or tmp_path / "containers"), name))

    return find


@pytest.fixture
def ours(docker_client, tmp_path):
    """What the engine has of this test's stack: containers and networks."""

    def find():
        label = {"label": f"io.shipway.stack={stack_of(tmp_path / 'containers')}"}
        return [
            *docker_client.api.containers(all=True, filters=label),
            *docker_client.api.networks(filters=label),
        ]

    return find


def wait_until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_container_has_only_what_it_needs(make_docker_target, container_spec_of, inspect, ask, tmp_path):
    target = make_docker_target(cpus=0.5, memory_mb=128, pids=64, log_mb=3, tmp_mb=8)
    spec = container_spec_of(EXTRA="mine")
    started = target.ensure(spec)
    ready = target.ready(spec.name, 10)
    found = inspect(spec.name)
    host, user = found["HostConfig"], f"{os.getuid()}:{os.getgid()}" if os.getuid() else "10001:10001"
    assert host["NetworkMode"] == "none" and list(found["NetworkSettings"]["Networks"]) == ["none"]
    assert (host["ReadonlyRootfs"], host["Privileged"], host["Init"]) == (True, False, True)
    assert (host["CapDrop"], host["CapAdd"], host["SecurityOpt"]) == (["ALL"], None, ["no-new-privileges:true"])
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (128 * 2**20, 128 * 2**20, 500_000_000)
    assert host["PidsLimit"] == 64
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "3m", "max-file": "2"}}
    assert list(host["Tmpfs"]) == ["/tmp"] and "size=8m" in host["Tmpfs"]["/tmp"]
    assert found["Config"]["User"] == user
    assert found["Config"]["Labels"]["io.shipway.deployment"] == spec.name
    assert {mount["Destination"] for mount in found["Mounts"]} == {"/segments", "/run/shipway"}
    assert found["Image"] == spec.image
    answer = ask(ready)
    assert "'EXTRA': 'mine'" in answer and "'OMP_NUM_THREADS': '1'" in answer
    assert f"'uid': {user.partition(':')[0]}" in answer
    assert started.address == ready.address
    home = tmp_path / "containers" / spec.name
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (home, home / "run")] == [0o700, 0o700]


def test_nothing_can_be_written_but_what_is_meant_to(make_docker_target, container_spec_of, docker_client, inspect):
    target = make_docker_target()
    name = target.ensure(container_spec_of()).name
    target.ready(name, 10)
    container = docker_client.containers.get(inspect(name)["Id"])
    for path, written in {"/x": False, "/etc/x": False, "/tmp/x": True, "/segments/x": True}.items():
        assert (container.exec_run(["touch", path]).exit_code == 0) is written
    assert container.exec_run(["cat", "/proc/net/dev"]).output.decode().count(":") == 1  # loopback alone


def test_the_prediction_log_comes_out(make_docker_target, container_spec_of, ask, tmp_path):
    target = make_docker_target()
    ask(target.ready(target.ensure(container_spec_of()).name, 10), "/log")
    assert (tmp_path / "segments" / "flights" / "1" / "1.seg").read_text() == "a record"


def test_any_process_finds_it(make_docker_target, container_spec_of, tmp_path):
    spec = container_spec_of()
    before = make_docker_target().ready(make_docker_target().ensure(spec).name, 10)
    program = f"""
from pathlib import Path
from infra.images.interface import ImageSettings
from infra.targets.docker.target import DockerTarget
from infra.targets.docker.settings import DockerSettings
folders = {{"folder": Path({str(tmp_path / "containers")!r}), "segments": Path({str(tmp_path / "segments")!r})}}
target = DockerTarget(**folders, settings=DockerSettings(), images=ImageSettings())
print(target.list()[0])
"""
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[4], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == str(before)


def test_a_killed_server_is_started_again(make_docker_target, container_spec_of, ask, inspect):
    target = make_docker_target()
    name = target.ensure(container_spec_of()).name
    before = target.ready(name, 10)
    assert inspect(name)["HostConfig"]["RestartPolicy"]["Name"] == "always"
    for times in (1, 2, 3, 4):
        with pytest.raises(OSError):
            ask(target.ready(name, 20), "/die")
        wait_until(lambda times=times: target.list()[0].restarts == times)
    after = target.ready(name, 20)
    assert (after.restarts, after.address) == (4, before.address)


def test_a_crash_loop_ends_with_the_end_of_its_log(make_docker_target, container_spec_of):
    target = make_docker_target()
    name = target.ensure(container_spec_of(FAIL="1")).name
    with pytest.raises(
        PermanentTargetError, match=r"(?s)exited with 1, 3 times before it was ever ready.*no model here"
    ):
        target.ready(name, 30)
    assert target.list()[0].state is State.FAILED
    assert target.logs(name).count("no model here") == 3
    assert target.ensure(container_spec_of(FAIL="1")).state is State.STARTING  # another three tries
    assert target.logs(name).count("started") >= 3  # and what was said before is not lost


def test_a_server_that_takes_too_much_memory_is_named(make_docker_target, container_spec_of):
    target = make_docker_target(memory_mb=64, restart="no")
    name = target.ensure(container_spec_of(EAT="1")).name
    with pytest.raises(PermanentTargetError, match=r"out of memory \(limit 64 MiB\)"):
        target.ready(name, 30)


@pytest.mark.parametrize("settings", [{}, {"network": "of the test"}], ids=["socket", "network"])
def test_stopping_all_leaves_nothing_on_the_engine_and_restoring_brings_it_back(
    make_docker_target, container_spec_of, ours, tmp_path, settings
):
    if settings:
        settings = {"network": f"shipway-test-{stack_of(tmp_path)}"}
    target = make_docker_target(**settings)
    before = [target.ready(target.ensure(container_spec_of(version)).name, 10) for version in ("1", "2")]
    target.stop_all()
    assert ours() == []
    assert list((tmp_path / "containers").glob("*/run/*")) == []
    assert {deployment.state for deployment in target.list()} == {State.FAILED}
    assert "finished" in target.logs(before[0].name)
    assert [deployment.address for deployment in target.restore()] == [deployment.address for deployment in before]
    for deployment in before:
        assert target.ready(deployment.name, 10) == deployment
        target.remove(deployment.name)
    assert ours() == []
    assert list((tmp_path / "containers").iterdir()) == []
    assert target.stop_all() is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"bento_digest": "sha256:" + "f" * 64}, "Somebody changed it"),
        ({"image": "shipway-base:bookworm"}, "never a tag"),
        ({"image": "sha256:" + "0" * 64}, "the engine has no image"),
        ({"pulled": True, "model_digest": "sha256:" + "a" * 64}, "registry_url is not set"),
    ],
    ids=["tampered", "tag", "missing", "no registry"],
)
def test_a_wrong_image_is_refused_and_nothing_is_left(
    make_docker_target, container_spec_of, ours, tmp_path, changed, said
):
    target = make_docker_target()
    with pytest.raises(PermanentTargetError, match=said):
        target.ensure(replace(container_spec_of(), **changed))
    assert ours() == []
    assert list((tmp_path / "containers").iterdir()) == []


def test_what_the_engine_refuses_leaves_nothing(make_docker_target, container_spec_of, ours, tmp_path):
    target = make_docker_target(cpus=100_000)
    with pytest.raises(PermanentTargetError, match="CPUs"):
        target.ensure(container_spec_of())
    assert ours() == []
    assert list((tmp_path / "containers").iterdir()) == []


@pytest.mark.filterwarnings("ignore:unclosed .socket:ResourceWarning")  # docker's, where nobody answers
def test_without_an_engine_only_deployments_on_record_are_missed(
    make_docker_target, container_spec_of, tmp_path, monkeypatch
):
    spec = container_spec_of()
    make_docker_target().ensure(spec)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/dead.sock")
    target = DockerTarget(tmp_path / "none", segments=tmp_path, settings=DockerSettings(), images=ImageSettings())
    assert list(target.list()) == list(target.restore()) == []
    target.drain("flights-1-11111111", 1)
    target.remove("flights-1-11111111")
    target.stop_all()
    assert target.logs("flights-1-11111111") == ""
    away = make_docker_target()
    for call in (away.list, away.restore, away.stop_all, lambda: away.remove(spec.name), lambda: away.ensure(spec)):
        with pytest.raises(TransientTargetError, match=r"dead\.sock does not answer"):
            call()
    gc.collect()
    monkeypatch.delenv("DOCKER_HOST")
    assert make_docker_target().ready(spec.name, 10).state is State.READY


def test_in_a_network_a_container_answers_on_a_port_of_loopback(
    make_docker_target, container_spec_of, inspect, ask, tmp_path, docker_client
):
    network = f"shipway-test-{stack_of(tmp_path)}"
    target = make_docker_target(network=network)
    name = target.ensure(container_spec_of()).name
    ready = target.ready(name, 10)
    assert (ready.address.uds, ready.address.host) == (None, "127.0.0.1")
    assert "'segments': '/segments'" in ask(ready)
    found = inspect(name)
    bound = [{"HostIp": "127.0.0.1", "HostPort": str(ready.address.port)}]
    assert found["HostConfig"]["PortBindings"] == {"8080/tcp": bound}
    assert list(found["NetworkSettings"]["Networks"]) == [network]
    assert {mount["Destination"] for mount in found["Mounts"]} == {"/segments"}
    target.drain(name, 5)
    assert target.ensure(container_spec_of()).address == ready.address
    target.ready(name, 10)
    target.remove(name)
    assert docker_client.networks.list([network]) == []


def test_a_port_that_was_taken_meanwhile_is_given_up(make_docker_target, container_spec_of, ask, tmp_path):
    target = make_docker_target(network=f"shipway-test-{stack_of(tmp_path)}")
    name = target.ensure(container_spec_of()).name
    port = target.ready(name, 10).address.port
    target.stop_all()
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        target.restore()
        ready = target.ready(name, 10)
    assert ready.address.port != port
    assert "segments" in ask(ready)


def test_unpublished_it_is_reached_by_its_name(make_docker_target, container_spec_of, docker_client, tmp_path):
    network = docker_client.networks.create(f"shipway-test-{stack_of(tmp_path)}")  # somebody else's
    try:
        target = make_docker_target(network=network.name, publish=False)
        name = target.ensure(container_spec_of()).name
        ready = target.ready(name, 10)
        assert (ready.address.host, ready.address.port) == (
            container_name(stack_of(tmp_path / "containers"), name),
            8080,
        )
        ask_it = f"import urllib.request as u; print(u.urlopen('{ready.address}/readyz').status)"
        said = docker_client.containers.run(
            container_spec_of().image, ["-c", ask_it], entrypoint="python3", network=network.name, remove=True
        )
        assert said == b"200\n"
        target.remove(name)
        assert docker_client.networks.list([network.name])
    finally:
        network.remove()


def test_a_deep_folder_works_through_a_short_socket(make_docker_target, container_spec_of, ask, tmp_path):
    target = make_docker_target(tmp_path / ("deep" * 20))
    name = target.ensure(container_spec_of()).name
    ready = target.ready(name, 10)
    assert len(ready.address.uds) <= 107
    assert "segments" in ask(ready)
    target.remove(name)
    assert not Path(ready.address.uds).parent.parent.exists()


@pytest.mark.parametrize("volumes", [False, True], ids=["folders", "volumes"])
def test_a_container_that_fetches_gets_its_lock_and_what_leads_to_the_registry(
    make_docker_target, container_spec_of, ask, inspect, docker_client, sealed, tmp_path, monkeypatch, volumes
):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "reader")
    (sealed / "src" / "requirements.lock").write_text("numpy==2.4.6 --hash=sha256:0\n")
    (tmp_path / "ca.pem").write_text("an authority")
    mark = stack_of(tmp_path)
    named = {"cache_volume": f"shipway-test-{mark}", "segments_volume": f"shipway-test-{mark}-log"} if volumes else {}
    spec = replace(container_spec_of(), pulled=True, resolved=True, model_digest="sha256:" + "a" * 64)
    try:
        target = make_docker_target(
            images=ImageSettings(ca_file=tmp_path / "ca.pem"), registry_url="http://127.0.0.1:5000", **named
        )
        ready = target.ready(target.ensure(spec).name, 10)
        said = ask(ready)
        lock = inspect(spec.name)["Args"]
        lock = lock[lock.index("--lock") + 1]
        assert f"'--digest', '{spec.model_digest}', '--registry', 'http://127.0.0.1:5000', '--lock', '{lock}'" in said
        assert "numpy==2.4.6" in ask(ready, f"/files{lock}")
        assert "an authority" in ask(ready, f"/files{lock.replace('requirements.lock', 'ca.pem')}")
        assert "'MLFLOW_TRACKING_USERNAME': 'reader'" in said
        assert f"'segments': '/segments{'/flights/1' if volumes else ''}'" in said
        assert inspect(spec.name)["HostConfig"]["NetworkMode"] == "host"
        target.remove(spec.name)
    finally:
        for volume in named.values():
            docker_client.volumes.get(volume).remove(force=True)
