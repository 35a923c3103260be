"""What tests of images share: the engine, a small package index on this machine, and sealed bentos."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import subprocess
import sys
import threading
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bentos.policy.build import BuildPolicy
from bentos.sealing.bento import SealedBento, build
from bentos.serving.environments.environment import Lock
from bentos.serving.environments.lock_text import lock_digest
from bentos.serving.fetch.artifact_tree import tree_digest
from bentos.versions.model_version import ModelVersion
from infra.images.engine import connected
from infra.images.interface import ImageSettings
from tests.docker_engine import require_engine, settings_of_this_machine

if TYPE_CHECKING:
    import docker

START = Path(__file__).parents[3] / "infra" / "images" / "start.txt"
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
SECRET = f"token-{uuid.uuid4().hex}"
SERVICE = """
import bentoml

@bentoml.service
class service:
    @bentoml.api
    def ask(self, x: int) -> int:
        return x
"""


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """A client of the engine; the test is skipped, with the reason, where there is none or it lacks the base image."""
    require_engine()
    with connected() as client:
        yield client


@pytest.fixture(scope="session")
def image_settings(engine: docker.DockerClient) -> ImageSettings:
    """How images are built on this machine, over its own way to the packages."""
    return settings_of_this_machine()


@pytest.fixture(scope="session")
def shared(engine: docker.DockerClient) -> Iterator[set[str]]:
    """Tags of images that several tests share; removed at the end of the session."""
    tags: set[str] = set()
    yield tags
    for tag in tags:
        with suppress(Exception):  # removed already, with its model
            engine.api.remove_image(tag, force=True)


@pytest.fixture
def made(engine: docker.DockerClient) -> Iterator[Callable[[str], str]]:
    """Names a model of this test alone; its images are removed at the end, and those given by tag."""
    names: list[str] = []

    def name(model: str = "") -> str:
        names.append(model or f"img-{uuid.uuid4().hex[:8]}")
        return names[-1]

    yield name
    for model in names:
        for image in engine.api.images(name=model if "/" in model else f"shipway/{model}"):
            with suppress(Exception):
                engine.api.remove_image(image["Id"], force=True)


class _Index(http.server.SimpleHTTPRequestHandler):
    """PEP 503 for the files of one folder, behind a password. ``stalled``: every answer waits for ``go_on``."""

    protocol_version = "HTTP/1.1"
    go_on = threading.Event()
    asked = threading.Event()

    def do_GET(self) -> None:
        self.asked.set()
        self.go_on.wait(60)
        expected = "Basic " + base64.b64encode(f"robot:{SECRET}".encode()).decode()
        if self.headers.get("authorization") != expected:
            self._say(401, b"", {"www-authenticate": "Basic"})
        elif self.path.startswith("/simple/"):
            project = self.path.removeprefix("/simple/").strip("/").replace("-", "_")
            files = [file for file in Path(self.directory).iterdir() if file.name.lower().startswith(f"{project}-")]
            links = "".join(f'<a href="/files/{file.name}">{file.name}</a>' for file in files)
            self._say(200 if files else 404, links.encode(), {"content-type": "text/html"})
        else:
            file = Path(self.directory, Path(self.path).name)
            self._say(200 if file.exists() else 404, file.read_bytes() if file.exists() else b"", {})

    def _say(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@dataclass(frozen=True)
class Index:
    """A package index. *lock* is a hashed lock of its one small package; *handler_in_folder* answers with its files elsewhere."""

    url: str
    lock: str
    handler: type[_Index]
    handler_in_folder: Any


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """An index on loopback, behind a password, with what a build itself needs and one package ``tiny``."""
    folder = tmp_path_factory.mktemp("index")
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "-r", str(START)]
    subprocess.run([*fetch, "-d", str(folder)], check=True, capture_output=True)
    wheel = folder / "tiny-1.0-py3-none-any.whl"
    info = "tiny-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny/__init__.py", "answer = 42\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", f"tiny/__init__.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    handler = type("Handler", (_Index,), {"go_on": threading.Event(), "asked": threading.Event()})
    handler.go_on.set()
    in_folder = functools.partial(handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), in_folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://robot:{SECRET}@127.0.0.1:{server.server_port}/simple"
    yield Index(url, f"tiny==1.0 \\\n    --hash=sha256:{digest}\n", handler, in_folder)
    server.shutdown()
    server.server_close()


@pytest.fixture
def small_settings(image_settings: ImageSettings, index: Index, tmp_path: Path) -> ImageSettings:
    """Builds from the small index alone, with an authority that nothing needs."""
    authority = tmp_path / "authority.pem"
    authority.write_text(f"-----BEGIN CERTIFICATE-----\n{SECRET}-of-the-authority\n-----END CERTIFICATE-----\n")
    return image_settings.model_copy(update={"index_url": index.url, "ca_file": authority, "builder": "classic"})


@dataclass(frozen=True)
class Sealing:
    """Seals bentos of a model that nobody loads, with a lock of their own."""

    folder: Path
    model: str
    lock: str

    def __call__(
        self, version: str = "1", *, lock: str | None = None, minor: str = MINOR
    ) -> tuple[SealedBento, ModelVersion]:
        text = lock or self.lock
        artifacts = self.folder / "artifacts" / version
        artifacts.mkdir(parents=True, exist_ok=True)
        (artifacts / "MLmodel").write_text(f"version: {version}\n")
        code = self.folder / "code" / "bentos"
        serving = code / "serving"
        serving.mkdir(parents=True, exist_ok=True)
        for package in (code, serving):
            (package / "__init__.py").touch()
        (serving / "service.py").write_text(SERVICE)
        tags = {"mlflow.source.git.commit": "c0ffee"}
        found = ModelVersion(self.model, version, "run-1", "models:/m", "sklearn", tree_digest(artifacts), (), minor)
        sealed = Lock(text, lock_digest(minor, text, "hashed"), minor)
        bento = build(found, artifacts, BuildPolicy(), sealed, self.folder / "bentos", code=code)
        return bento, replace(found, tags=tags)


@pytest.fixture
def seal(index: Index, made: Callable[[str], str], tmp_path: Path) -> Sealing:
    return Sealing(tmp_path, made(""), index.lock)
