"""A Docker engine of the test's own, so that it may be stopped in the middle of a build, or have a disk that is full."""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time

import pytest

from bentos.policy.build import ImagePolicy
from infra.images.builder import ImageBuilder
from infra.images.engine import connected
from infra.images.interface import PermanentImageError, TransientImageError
from infra.images.template import STAGE_LABEL
from tests.docker_engine import base_image

DAEMON = shutil.which("dockerd")

pytestmark = [
    pytest.mark.long("images"),
    pytest.mark.skipif(
        DAEMON is None or os.geteuid() != 0, reason="dockerd is not installed, or this user may not start one"
    ),
]


class Daemon:
    """A dockerd with its own socket and data below *folder*; no network of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.host = f"unix://{folder}/d.sock"
        self._process = None

    def start(self):
        command = [
            DAEMON,
            "--host",
            self.host,
            "--data-root",
            f"{self.folder}/data",
            "--exec-root",
            f"{self.folder}/run",
        ]
        command += ["--pidfile", f"{self.folder}/pid", "--iptables=false", "--ip-masq=false"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(TransientImageError), connected(timeout=5):
                return
            if self._process.poll() is not None:
                pytest.skip(f"dockerd cannot run here: {(self.folder / 'log').read_text()[-500:]}")
            time.sleep(0.2)
        raise AssertionError((self.folder / "log").read_text()[-3000:])

    def stop(self):
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def fill(self):
        """Leaves 20 MB of its disk."""
        room = os.statvfs(self.folder / "data")
        with (self.folder / "data" / "filler").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - 20_000_000)


@pytest.fixture
def daemon(engine, tmp_path_factory, monkeypatch, request):
    """Started, with the base image loaded; its data is on a file system of *param* MB where the test asks for one."""
    folder = tmp_path_factory.mktemp("dockerd")
    (folder / "data").mkdir()
    size = getattr(request, "param", None)
    if size is not None and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(folder / "data")], capture_output=True, check=False
    ).returncode != 0:  # fmt: skip
        pytest.skip("a file system cannot be mounted here")
    with (folder / "base.tar").open("wb") as file:
        for part in engine.images.get(base_image()).save(named=True):
            file.write(part)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{folder}/d.sock")
    made = Daemon(folder)
    try:
        made.start()
        with connected() as client, (folder / "base.tar").open("rb") as file:
            client.images.load(file)
        (folder / "base.tar").unlink()
        yield made
    finally:
        with contextlib.suppress(Exception):
            made.stop()
        subprocess.run(
            ["sh", "-c", f"grep -o '{folder}[^ ]*' /proc/mounts | sort -r | xargs -r -n1 umount -l"], check=False
        )
        shutil.rmtree(folder, ignore_errors=True)


def left():
    """Containers, and images that are not the base."""
    with connected() as client:
        images = [image for image in client.api.images(all=True) if base_image() not in (image["RepoTags"] or [])]
        return [*client.api.containers(all=True), *images]


def test_a_daemon_that_stops_in_the_middle_leaves_nothing_once_it_is_back(
    daemon, small_settings, seal, index, tmp_path
):
    builder = ImageBuilder(small_settings, tmp_path / "images")
    bento, version = seal()
    index.handler.asked.clear()
    index.handler.go_on.clear()  # the build waits for its packages
    raised = []

    def work():
        try:
            builder.ensure(bento, version, ImagePolicy())
        except Exception as error:
            raised.append(error)

    worker = threading.Thread(target=work)
    try:
        worker.start()
        assert index.handler.asked.wait(60)
        daemon.stop()
        worker.join(60)
    finally:
        index.handler.go_on.set()
    assert [type(error) for error in raised] == [TransientImageError], raised
    assert f"Docker engine at {daemon.host}" in str(raised[0])
    assert list((tmp_path / "images").glob("*.json")) == []
    daemon.start()
    assert left() != []  # the engine itself forgets nothing
    image = builder.ensure(bento, version, ImagePolicy())
    with connected() as client:
        assert client.api.containers(all=True) == []
        dangling = client.api.images(filters={"dangling": True})
        assert [entry for entry in dangling if (entry["Labels"] or {}).get(STAGE_LABEL)] == []
        assert client.api.inspect_image(image.reference)["Config"]["User"] == "10001:10001"


@pytest.mark.parametrize("daemon", [450], indirect=True)
def test_a_full_disk_is_said_to_be_full_and_nothing_is_left(daemon, small_settings, seal, tmp_path):
    bento, version = seal()
    daemon.fill()
    with pytest.raises(PermanentImageError, match=r"the disk of the Docker engine at .* is full: .*no space left on device.*docker system df"):  # fmt: skip
        ImageBuilder(small_settings, tmp_path / "images").ensure(bento, version, ImagePolicy())
    assert left() == [] and list((tmp_path / "images").glob("*.json")) == []
