import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from infra.targets.interface import DeploymentSpec
from infra.targets.process import ProcessTarget

LAUNCHER = textwrap.dedent(
    '''
    """Stands in for the launcher of a sealed bento: same command line, same readiness, standard library only."""
    import argparse, http.server, os, signal, socketserver, sys, threading, time

    parser = argparse.ArgumentParser()
    for option in ("--bento", "--uds", "--segments", "--deployment"):
        parser.add_argument(option, required=True)
    options = parser.parse_args()
    print("started", options.deployment, flush=True)
    if "FAIL" in os.environ:
        sys.exit("no model here")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/slow":
                time.sleep(0.5)
            if self.path == "/chatter":
                print("x" * 1000000, flush=True)
            body = repr({"segments": options.segments, "environment": dict(os.environ)}).encode()
            self.send_response(200 if os.environ.get("READY", "yes") == "yes" else 503)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self):
            return "unix"

        def log_message(self, *arguments):
            pass

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = False

    server = Server(options.uds, Handler)
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
    package = tmp_path / "bento" / "src" / "bentos"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "launcher.py").write_text(LAUNCHER)
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
