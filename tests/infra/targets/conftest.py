import http.client
import io
import socket
import sys
import tarfile
import tempfile
import textwrap
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from infra.images.engine import connect
from infra.images.interface import ImageSettings, TransientImageError
from infra.targets.docker.place import stack_of
from infra.targets.docker.settings import DockerSettings
from infra.targets.docker.target import DockerTarget
from infra.targets.interface import DeploymentSpec
from infra.targets.process.target import ProcessTarget

BASE_IMAGE = "shipway-base:bookworm"
DOCKERFILE = f"""
FROM {BASE_IMAGE}
COPY launcher.py /launcher.py
USER 10001:10001
ENTRYPOINT ["python3", "/launcher.py", "--bento", "/opt/shipway/bento"]
"""

LAUNCHER = textwrap.dedent(
    '''
    """Stands in for the launcher of a sealed bento: same command line, same readiness, standard library only."""
    import argparse, http.server, os, pathlib, signal, socketserver, sys, threading, time

    parser = argparse.ArgumentParser()
    for option in ("--bento", "--uds", "--host", "--port", "--segments", "--deployment"):
        parser.add_argument(option)
    options, others = parser.parse_known_args()
    print("started", options.deployment, flush=True)
    if "FAIL" in os.environ:
        sys.exit("no model here")
    if "EAT" in os.environ:
        eaten = [bytearray(os.urandom(1 << 20)) for _ in range(1024)]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/slow":
                time.sleep(0.5)
            if self.path == "/slowest":
                time.sleep(3.0)
            if self.path == "/chatter":
                print("x" * 1000000, flush=True)
            if self.path == "/die":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.path == "/log":
                pathlib.Path(options.segments, "1.seg").write_text("a record")
            about = {"segments": options.segments, "environment": dict(os.environ), "others": others, "uid": os.getuid()}
            if self.path.startswith("/files/"):
                about = pathlib.Path(self.path.removeprefix("/files")).read_text()
            body = repr(about).encode()
            self.send_response(200 if os.environ.get("READY", "yes") == "yes" else 503)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self):
            return "unix"

        def log_message(self, *arguments):
            pass

    class Server(socketserver.ThreadingUnixStreamServer if options.uds else socketserver.ThreadingTCPServer):
        daemon_threads = False

    if options.uds:
        pathlib.Path(options.uds).unlink(missing_ok=True)
    server = Server(options.uds or (options.host, int(options.port)), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever(poll_interval=0.02)
    server.server_close()
    print("finished", flush=True)
    '''
)


@pytest.fixture
def tmp_path():
    """A short one: the path of a unix socket must fit into 107 bytes, and the folders of a parallel run are long."""
    with tempfile.TemporaryDirectory(prefix="sw-") as name:
        yield Path(name)


@pytest.fixture
def sealed(tmp_path):
    """A folder like a sealed bento's, with a stand-in launcher."""
    serving = tmp_path / "bento" / "src" / "bentos" / "serving"
    serving.mkdir(parents=True)
    for package in (serving.parent, serving):
        (package / "__init__.py").touch()
    (serving / "launcher.py").write_text(LAUNCHER)
    return tmp_path / "bento"


@pytest.fixture
def spec_of(sealed):
    def make(version="1", *, model="flights", **environment):
        digest = "sha256:" + version * 64
        return DeploymentSpec(model, version, str(sealed), digest[:71], sys.executable, environment)

    return make


@pytest.fixture
def make_target(tmp_path):
    """Makes process targets; nothing of them runs afterwards."""
    targets = []

    def make(folder=None, **settings):
        target = ProcessTarget(folder or tmp_path / "deployments", segments=tmp_path / "segments", **settings)
        targets.append(target)
        return target

    yield make
    for target in targets:
        for deployment in target.list():
            target.remove(deployment.name)


@pytest.fixture
def ask():
    """Asks a deployment, wherever it listens, and gives the body."""

    def question(deployment, path="/"):
        address = deployment.address
        connection = http.client.HTTPConnection(address.host or "server", address.port, timeout=5)
        if address.uds is not None:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(5)
            connection.sock.connect(address.uds)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    return question


@pytest.fixture(scope="session")
def docker_client():
    """A client of the engine; what needs one is skipped, with the reason, where none answers."""
    try:
        client = connect(timeout=60)
    except TransientImageError as away:
        pytest.skip(str(away))
    if not client.images.list(BASE_IMAGE):
        client.close()
        pytest.skip(f"the engine has no image {BASE_IMAGE}; `make base-image` makes it")
    yield client
    client.close()


@pytest.fixture(scope="session")
def image_of(docker_client):
    """Builds images with the stand-in launcher, as if they held the bento of that digest; gives the id."""
    mark, built = uuid.uuid4().hex[:12], {}

    def make(digest):
        if digest not in built:
            context = io.BytesIO()
            with tarfile.open(fileobj=context, mode="w") as archive:
                label = f"LABEL io.shipway.bento-digest={digest} test={mark}\n"
                for name, text in {"Dockerfile": DOCKERFILE + label, "launcher.py": LAUNCHER}.items():
                    entry = tarfile.TarInfo(name)
                    entry.size = len(text.encode())
                    archive.addfile(entry, io.BytesIO(text.encode()))
            context.seek(0)
            tag = f"shipway-test-target:{mark}-{len(built)}"
            image, _ = docker_client.images.build(fileobj=context, custom_context=True, tag=tag, rm=True, forcerm=True)
            built[digest] = image.id
        return built[digest]

    yield make
    for image in docker_client.images.list(filters={"label": f"test={mark}"}):
        docker_client.images.remove(image.id, force=True)


@pytest.fixture
def container_spec_of(spec_of, image_of):
    """Like ``spec_of``, with the image that holds the spec's bento."""

    def make(version="1", **settings):
        spec = spec_of(version, **settings)
        return replace(spec, image=image_of(spec.bento_digest))

    return make


@pytest.fixture
def make_docker_target(tmp_path, docker_client):
    """Makes docker targets; nothing of them is on the engine afterwards, whatever a test did."""
    folders = set()

    def make(folder=None, *, images=None, **settings):
        folder = folder or tmp_path / "containers"
        folders.add(folder)
        return DockerTarget(
            folder,
            segments=tmp_path / "segments",
            settings=DockerSettings(**settings),
            images=images or ImageSettings(),
        )

    yield make
    for folder in folders:
        ours = {"label": f"io.shipway.stack={stack_of(folder)}"}
        for container in docker_client.containers.list(all=True, filters=ours):
            container.remove(force=True, v=True)
        for network in docker_client.networks.list(filters=ours):
            network.remove()
