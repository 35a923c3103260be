"""The image of a real model, run as a target runs it: nothing writable, no capabilities, no network but the socket."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from importlib import metadata
from pathlib import Path

import pytest

from bentos.policy.build import BuildPolicy, ImagePolicy
from bentos.sealing.bento import build
from bentos.sealing.lock import lock_for
from bentos.serving.environments.environment import Environments
from bentos.serving.fetch.artifact_tree import tree_digest
from bentos.versions.model_version import ModelVersion
from infra.images.builder import ImageBuilder
from infra.images.containerize import UV_WITHOUT_PIP, _adapt
from infra.images.interface import ImageSettings, PermanentImageError
from infra.images.template import STAGE_LABEL
from tests.bentos.saved import IGNORED, logistic

pytestmark = [pytest.mark.long("images"), *(pytest.mark.filterwarnings(line) for line in IGNORED)]
PINS = tuple(f"{name}=={metadata.version(name)}" for name in ("scikit-learn", "numpy", "skops"))


@pytest.fixture
def model(made, tmp_path):
    """A logistic regression in a sealed bento, locked for an image."""
    artifacts = logistic(tmp_path / "artifacts")
    version = ModelVersion(made(""), "7", "run-7", "models:/m", "sklearn", tree_digest(artifacts), PINS, None)
    lock = lock_for(Environments(tmp_path / "envs"), version, BuildPolicy(), hashed=True)
    return build(version, artifacts, BuildPolicy(), lock, tmp_path / "bentos"), version


@pytest.fixture
def place():
    """A folder that the container's user may write, with a path short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="shipway-run-"))
    os.chmod(folder, 0o777)  # noqa: PTH101 (the same call, whatever the umask)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


class OverSocket(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=10)
        self._path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def ask(path, method, url, body=None):
    connection = OverSocket(path)
    try:
        connection.request(method, url, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def wait_until_ready(path, seconds=60.0):
    end = time.monotonic() + seconds
    while True:
        try:
            if ask(path, "GET", "/readyz")[0] == 200:
                return
        except OSError:
            pass
        assert time.monotonic() < end, "the container is not ready"
        time.sleep(0.05)


def test_a_locked_down_container_answers_on_its_socket(engine, image_settings, model, place, tmp_path):
    bento, version = model
    image = ImageBuilder(image_settings, tmp_path / "images").ensure(bento, version, ImagePolicy())
    container = engine.containers.run(
        image.reference, ["--uds", "/run/shipway/server.sock", "--deployment", "d"], detach=True, read_only=True,
        network_mode="none", cap_drop=["ALL"], security_opt=["no-new-privileges"], tmpfs={"/tmp": ""},
        volumes={str(place): {"bind": "/run/shipway", "mode": "rw"}},
    )  # fmt: skip
    try:
        wait_until_ready(place / "server.sock")
        rows = {"dataframe_split": {"columns": ["a", "b", "c"], "data": [[0.9, 0.9, 0.1], [0.1, 0.1, 0.1]]}}
        status, body = ask(place / "server.sock", "POST", "/invocations", json.dumps(rows))
        assert (status, json.loads(body)) == (200, {"predictions": [1, 0]})
        probe = container.exec_run(["python3", "-I", "-S", "/opt/shipway/health.py"])
        assert probe.exit_code == 0, probe.output
        assert container.exec_run(["id", "-un"]).output == b"shipway\n"
        assert container.exec_run(["sh", "-c", "touch /opt/shipway/x"]).exit_code != 0
        modules = container.exec_run(["/opt/shipway/env/bin/python", "-c", "import pyarrow"])
        assert b"No module named 'pyarrow'" in modules.output  # which batch scoring alone asked for
    finally:
        container.remove(force=True)


def test_the_network_and_the_base_are_bentomls_too_and_none_from_it_is_an_error(
    engine, image_settings, model, tmp_path
):
    bento, version = model
    cut_off = image_settings.model_copy(update={"network": "none", "builder": "classic"})
    with pytest.raises(
        PermanentImageError, match=r"(?s)no image was made.*apt-get.*bentoml.container.build returned None"
    ):
        ImageBuilder(cut_off, tmp_path / "images").ensure(bento, version, ImagePolicy(builder="bentoml"))
    keys = {path.stem for path in (tmp_path / "images").glob("*.lock")}
    left = [*engine.api.images(filters={"dangling": True}), *engine.api.containers(all=True)]
    assert [e for e in left if (e["Labels"] or {}).get(STAGE_LABEL, "")[:16] in keys] == [] and len(keys) == 1
    assert engine.api.images(name="shipway/bentoml") == []
    assert list((tmp_path / "images").glob("*.json")) == []


def test_bentoml_is_told_our_base_and_finds_uv_where_there_is_no_pip(tmp_path):
    path = tmp_path / "bento.yaml"
    path.write_text("image:\n  base_image: theirs\n  commands: [apt-get update]\nname: x\n")
    _adapt(path, ImageSettings(base="ours:1"))
    text = path.read_text()
    assert "base_image: ours:1" in text and "theirs" not in text and "apt-get update" in text and "name: x" in text
    done = subprocess.run(
        ["/bin/sh", "-c", UV_WITHOUT_PIP], env={"PATH": str(tmp_path)}, capture_output=True, check=False
    )
    assert done.returncode != 0  # neither uv nor pip nor python3 on that path
    (tmp_path / "pip").write_text("")
    (tmp_path / "pip").chmod(0o755)
    assert subprocess.run(["/bin/sh", "-c", UV_WITHOUT_PIP], env={"PATH": str(tmp_path)}, check=False).returncode == 0
