"""The engine itself goes away and comes back. It is a private one, so that nobody else's containers fall with it."""

import gc
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from infra.images.engine import connect
from infra.targets.interface import State, TransientTargetError

DOCKERD = shutil.which("dockerd")
pytestmark = pytest.mark.skipif(DOCKERD is None or os.getuid() != 0, reason="needs dockerd, and root to start it")


class Engine:
    """A dockerd of its own below a folder."""

    def __init__(self, folder):
        self.folder = folder
        self.host = f"unix://{folder}/x.sock"
        self.process = None

    def start(self):
        command = [
            "unshare",  # a network namespace of its own: without a bridge an engine deletes that of the machine's engine
            "--net",
            DOCKERD,
            "--data-root",
            self.folder / "data",
            "--exec-root",
            self.folder / "exec",
            "--host",
            self.host,
        ]
        command += ["--bridge=none", "--iptables=false", "--pidfile", self.folder / "pid"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 60
        while not self.listens():
            assert self.process.poll() is None and time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.1)
        return connect(timeout=60)

    def listens(self):
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.folder / "x.sock")) == 0

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.wait(timeout=60)
        # Its containerd dies with it. Where nobody reaps that one, the next dockerd would wait for the zombie.
        (self.folder / "exec" / "containerd" / "containerd.pid").unlink(missing_ok=True)

    def remove(self):
        """Ends it with all that it runs: containers outlive a killed dockerd."""
        if self.process.poll() is not None:
            self.start().close()
        with closing(connect()) as client:
            for container in client.containers.list(all=True):
                container.remove(force=True)
        self.stop()
        mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for path in reversed([path for path in mounted if path.startswith(f"{self.folder}/")]):
            subprocess.run(["umount", path], check=True)  # what a killed dockerd leaves, its data folder on itself


@pytest.fixture
def engine(docker_client, container_spec_of, tmp_path, monkeypatch):
    """The engine, running, with the stand-in's image; the environment names it."""
    found = Engine(tmp_path)
    monkeypatch.setenv("DOCKER_HOST", found.host)
    with closing(found.start()) as client:
        try:
            client.images.load(docker_client.images.get(container_spec_of().image).save())
            yield found
        finally:
            found.remove()
    gc.collect()


@pytest.mark.filterwarnings("ignore:unclosed .socket:ResourceWarning")  # docker's, where nobody answers
def test_deployments_survive_a_restart_and_a_crash_of_the_engine(engine, make_docker_target, container_spec_of, ask):
    target = make_docker_target()
    before = target.ready(target.ensure(container_spec_of()).name, 20)
    drained = target.ensure(container_spec_of(model="other")).name
    target.ready(drained, 20)
    target.drain(drained, 10)
    for number in (signal.SIGTERM, signal.SIGKILL):
        engine.stop(number)
        with pytest.raises(TransientTargetError, match="does not answer"):
            target.list()
        engine.start().close()
        after = target.ready(before.name, 60)
        assert after.address == before.address
        assert "segments" in ask(after)
        assert [found.state for found in target.list()] == [State.READY, State.DRAINING]
        with pytest.raises(OSError):
            ask(target.list()[1])
    assert target.restore() == []
    for name in (before.name, drained):
        target.remove(name)
