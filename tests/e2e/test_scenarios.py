"""The four scenarios on real containers: model and dependencies in the image or fetched at start, aliases followed under load.

Prints how long each start and each move of an alias took: ``pytest -s tests/e2e/test_scenarios.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from bentos.policy.build import BuildPolicy, ImagePolicy
from bentos.sealing.bento import SealedBento, build
from bentos.sealing.lock import lock_for
from bentos.serving.environments.environment import Environments
from bentos.serving.log.segments import scan_segment, segments
from bentos.versions.model_version import ModelVersion
from bentos.versions.registry import Registry
from infra.images.builder import ImageBuilder
from infra.images.engine import connected
from tests.bentos.steady import Steady
from tests.docker_engine import require_engine, settings_of_this_machine

pytestmark = [pytest.mark.e2e, pytest.mark.long("scenarios"), pytest.mark.timeout(900)]
HERE = Path(__file__).parent
OLD = ("scikit-learn==1.6.1", "numpy<2.3", "pandas<3", "mlflow-skinny", "cloudpickle")
RATE = 100.0  # requests a second
NAME = "scenario"
CA = "/run/ca.pem"


@dataclass(frozen=True)
class World:
    """Versions 1 and 2 ask for the stack's scikit-learn, 3 for 1.6.1; the bento is version 1's.

    *answers*: what the author's own objects answer to *body*, by version.
    """

    registry: str
    version: ModelVersion
    bento: SealedBento
    builder: ImageBuilder
    body: dict[str, Any]
    answers: dict[str, int]

    def image(self, model: str, dependencies: str) -> str:
        policy = ImagePolicy.model_validate({"model": model, "dependencies": dependencies})
        return self.builder.ensure(self.bento, self.version, policy).reference

    def set_alias(self, version: str) -> float:
        """Points the alias; when it was done, in monotonic seconds."""
        alias = {"name": NAME, "alias": "live", "version": version}
        httpx.post(f"{self.registry}/api/2.0/mlflow/registered-models/alias", json=alias).raise_for_status()
        return time.monotonic()

    @property
    def pinned(self) -> list[str]:
        return ["--model", NAME, "--version", "1", "--digest", self.version.digest, "--registry", self.registry]

    @property
    def followed(self) -> list[str]:
        self.set_alias("1")
        return ["--follow", f"models:/{NAME}@live", "--registry", self.registry, "--poll-seconds", "0.5"]


@pytest.fixture(scope="module")
def world(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    require_engine()
    folder = tmp_path_factory.mktemp("world")
    with connected() as client:
        before = {image.id for image in client.images.list()}
    old = folder / "old-env" / "bin" / "python"
    uv = Path(sys.executable).with_name("uv")
    said([uv, "venv", "--quiet", "--python", sys.executable, old.parents[1]])
    said([uv, "pip", "install", "--quiet", "--python", old, *OLD])
    for version, python in (("1", Path(sys.executable)), ("2", Path(sys.executable)), ("3", old)):
        said([python, HERE / "old_author.py", folder / version])
        (folder / version / "model" / "version.txt").write_text(version)
    register(mlflow_server, folder)
    registry = Registry(mlflow_server, folder / "cache")
    found = registry.resolve(NAME, version="1")
    artifacts = registry.fetch(found)
    lock = lock_for(Environments(folder / "envs"), found, BuildPolicy(), hashed=True)
    bento = build(found, artifacts, BuildPolicy(), lock, folder / "bentos")
    columns, *rows = [line.split(",") for line in (folder / "1" / "rows.csv").read_text().split()]
    answers = {version: json.loads((folder / version / "expected.json").read_text())["answers"] for version in "123"}
    at = answers["1"].index(1)
    body = {"dataframe_split": {"columns": columns, "data": [[float(value) for value in rows[at]]]}}
    builder = ImageBuilder(settings_of_this_machine(), folder / "images")
    yield World(mlflow_server, found, bento, builder, body, {name: given[at] for name, given in answers.items()})
    records = [json.loads(path.read_text()) for path in (folder / "images").glob("*.json") if ".cdx" not in path.name]
    with connected() as client:
        for record in sorted(records, key=lambda record: "/env:" in record["tag"] or "/start:" in record["tag"]):
            if record["id"] not in before:
                with suppress(Exception):  # another stack on this engine uses it by now
                    client.api.remove_image(record["tag"])


def said(command: list[Any]) -> None:
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def register(url: str, folder: Path) -> None:
    """Registers the folders as versions of one model."""
    from mlflow import MlflowClient

    client = MlflowClient(url)
    run = client.create_run(client.create_experiment("scenarios"))
    client.create_registered_model(NAME)
    for version in "123":
        client.log_artifacts(run.info.run_id, str(folder / version / "model"), version)
        client.create_model_version(NAME, f"runs:/{run.info.run_id}/{version}", run.info.run_id)
    client.set_terminated(run.info.run_id)


@dataclass
class Container:
    """A container that serves on *socket*."""

    found: Any
    socket: Path
    segments: Path
    began: float

    def state(self) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(self.socket)) != 0:
                return {"ready": False}
        transport = httpx.HTTPTransport(uds=str(self.socket))
        with httpx.Client(transport=transport, base_url="http://server", timeout=20) as client:
            found: dict[str, Any] = client.get("/readyz").json()
            return found

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            self.found.reload()
            assert self.found.status == "running", f"{self.found.status}:\n{self.log()}"
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}\n{self.log()}"
            time.sleep(0.02)

    def ready(self, what: str) -> None:
        self.until(lambda: self.state()["ready"], "ready")
        print(f"{what}: ready {time.monotonic() - self.began:.1f} s after docker run")

    def log(self) -> str:
        return str(self.found.logs().decode())

    def stop(self) -> int:
        """The exit code after SIGTERM, as `docker stop` sends it."""
        self.found.stop(timeout=20)
        return int(self.found.wait()["StatusCode"])


@contextmanager
def container(image: str, cache: Path, *arguments: str, network: str = "host") -> Iterator[Container]:
    """Runs *image* as a deployment does: read-only, no capabilities, its folders on bind mounts."""
    run = Path(tempfile.mkdtemp(prefix="scenario-"))  # short: the path of a unix socket may have 107 bytes
    owner = 10001 if os.getuid() == 0 else os.getuid()
    mounts = {run / "run": "/run/shipway", run / "segments": "/segments", cache: "/var/cache/shipway"}
    for folder in mounts:
        folder.mkdir(exist_ok=True)
        if os.getuid() == 0:
            os.chown(folder, owner, owner)
    volumes = {str(source): {"bind": target} for source, target in mounts.items()}
    environment = {}
    if (authority := settings_of_this_machine().ca_file) is not None:
        volumes[str(authority.resolve())] = {"bind": CA, "mode": "ro"}
        environment["SSL_CERT_FILE"] = CA
    with connected() as client:
        began = time.monotonic()
        found = client.containers.run(
            image,
            [*arguments, "--uds", "/run/shipway/server.sock", "--segments", "/segments", "--drain-seconds", "0.5"],
            detach=True, network_mode=network, read_only=True, tmpfs={"/tmp": "size=64m"}, user=f"{owner}:{owner}",
            volumes=volumes, environment=environment, cap_drop=["ALL"], security_opt=["no-new-privileges"],
        )  # fmt: skip
        try:
            yield Container(found, run / "run" / "server.sock", run / "segments", began)
        finally:
            found.remove(force=True, v=True)
            shutil.rmtree(run)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def answers_as_version_1(one: Container, world: World) -> bool:
    """Whether the container answers as the author's own object does."""
    transport = httpx.HTTPTransport(uds=str(one.socket))
    with httpx.Client(transport=transport, base_url="http://server", timeout=20) as client:
        answer = client.post("/invocations", json=world.body)
    named = (answer.headers["x-shipway-model"], answer.headers["x-shipway-version"])
    return named == (NAME, "1") and answer.json() == {"predictions": [world.answers["1"]]}


def move(world: World, one: Container, steady: Steady, version: str, what: str) -> None:
    """Points the alias at *version* and waits until that answers the steady client."""
    steady.first.pop(version, None)
    since = world.set_alias(version)
    one.until(lambda: version in steady.first, f"version {version} answers")
    print(f"{what}: first answer of version {version} {steady.first[version] - since:.1f} s after the alias moved")


def test_i_model_and_dependencies_included(world: World, cache: Path) -> None:
    with container(world.image("included", "included"), cache, network="none") as one:
        one.ready("I")
        assert answers_as_version_1(one, world)
        assert one.stop() == 0


def test_ii_model_included_dependencies_resolved(world: World, cache: Path) -> None:
    for what in ("II, nothing kept", "II, kept"):
        network = "host" if "nothing" in what else "none"
        with container(world.image("included", "resolved"), cache, network=network) as one:
            one.ready(what)
            assert answers_as_version_1(one, world)
            assert one.stop() == 0


def test_iii_model_pulled_dependencies_included(world: World, cache: Path) -> None:
    image = world.image("pulled", "included")
    for what in ("III, nothing kept", "III, kept"):
        network = "host" if "nothing" in what else "none"
        with container(image, cache, *world.pinned, network=network) as one:
            one.ready(what)
            assert answers_as_version_1(one, world)
            assert one.stop() == 0


def test_iii_follows_what_its_environment_satisfies(world: World, cache: Path) -> None:
    with container(world.image("pulled", "included"), cache, *world.followed) as one:
        one.ready("III, following")
        with Steady(world.body, uds=str(one.socket), rate=RATE) as steady:
            move(world, one, steady, "2", "III, nothing kept")
            world.set_alias("3")
            one.until(lambda: f"{NAME}/3 is refused" in one.state()["refused"], "version 3 is refused")
            move(world, one, steady, "1", "III, kept")
        assert steady.failures == []
        assert set(steady.answers) == {(version, world.answers[version]) for version in "12"}
        assert one.stop() == 0
        (refusal,) = [line for line in one.log().splitlines() if "3 is refused" in line]
        assert "it asks for scikit-learn==1.6.1, numpy<2.3" in refusal
        assert "this environment has scikit-learn 1.9" in refusal


def test_iv_model_pulled_dependencies_resolved(world: World, cache: Path) -> None:
    image = world.image("pulled", "resolved")
    cache.mkdir()
    shutil.copyfile(world.bento.source / "requirements.lock", cache / "release.lock")
    for what in ("IV, nothing kept", "IV, kept"):
        network = "host" if "nothing" in what else "none"
        lock = ["--lock", "/var/cache/shipway/release.lock"]
        with container(image, cache, *world.pinned, *lock, network=network) as one:
            one.ready(what)
            assert answers_as_version_1(one, world)
            assert one.stop() == 0


def test_iv_moves_to_other_dependencies_without_a_failed_request(world: World, cache: Path) -> None:
    with container(world.image("pulled", "resolved"), cache, *world.followed) as one:
        one.ready("IV, following, nothing kept")
        with Steady(world.body, uds=str(one.socket), rate=RATE) as steady:
            move(world, one, steady, "3", "IV, nothing kept")
            move(world, one, steady, "1", "IV, kept")
            move(world, one, steady, "2", "IV, same environment")
            time.sleep(1)
        assert steady.failures == []
        assert set(steady.answers) == set(world.answers.items())
        sent = sum(steady.answers.values())
        assert one.stop() == 0
        logged = [record for path in segments(one.segments) for record in scan_segment(path).records]
        assert len(logged) == sent, "every server wrote its own part of the prediction log"
        print(f"IV: {sent} requests, none failed, the slowest took {steady.slowest * 1000:.0f} ms")


def test_another_model_than_the_released_one_is_refused(world: World, cache: Path) -> None:
    for dependencies in ("included", "resolved"):
        arguments = ["sha256:" + "0" * 64 if text == world.version.digest else text for text in world.pinned]
        with container(world.image("pulled", dependencies), cache, *arguments) as one:
            assert one.found.wait(timeout=60)["StatusCode"] == 1
            (line,) = one.log().strip().splitlines()
            assert f"have the digest {world.version.digest}, expected sha256:000" in line
        assert not [path for path in (cache / "models").iterdir() if path.is_dir()]
