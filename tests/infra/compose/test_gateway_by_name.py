"""A real Envoy as containers use it: model servers and the admin port by their names."""

from __future__ import annotations

import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from infra.gateways.bootstrap import address_of
from infra.gateways.envoy import EnvoyGateway
from infra.gateways.interface import PermanentGatewayError, TransientGatewayError
from infra.targets.interface import Address
from infra.traffic import Arm, TrafficPlan
from tests.conftest import free_port


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815 (the base class's name)

    def log_message(self, *_):
        return


@pytest.fixture(scope="module")
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made.server_port
        made.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gateway")
    port = free_port()
    made = EnvoyGateway(folder, host="127.0.0.1", port=port, admin_port=free_port(), admin_host="localhost")
    made.bootstrap()
    process = subprocess.Popen(made.command())
    deadline = time.monotonic() + 20
    while not made.alive():
        assert process.poll() is None and time.monotonic() < deadline, "Envoy did not start"
        time.sleep(0.02)
    yield made, f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(timeout=20)


def arm(host, port, name="wine-1"):
    return Arm("baseline", "1", name, Address(host=host, port=port), 100)


def test_a_server_is_reached_by_its_name(gateway, server):
    gateway, url = gateway
    gateway.apply(TrafficPlan("wine", (arm("localhost", server),)))
    assert httpx.post(f"{url}/models/wine/invocations", json={}, trust_env=False).status_code == 200
    assert gateway.plan("wine").baseline.address == Address(host="localhost", port=server)


def test_a_name_that_nobody_answers_for_leaves_the_routes(gateway, server):
    gateway, url = gateway
    gateway.apply(TrafficPlan("beer", (arm("localhost", server, "beer-1"),)))
    with pytest.raises(TransientGatewayError, match="no healthy answer from beer-2"):
        gateway.apply(TrafficPlan("beer", (arm("nobody.invalid", 8080, "beer-2"),)), timeout=3)
    assert gateway.plan("beer").baseline.deployment == "beer-1"
    assert httpx.post(f"{url}/models/beer/invocations", json={}, trust_env=False).status_code == 200


def test_an_unknown_admin_host_is_refused():
    with pytest.raises(PermanentGatewayError, match=r"admin host 'nobody\.invalid'"):
        address_of("nobody.invalid")
    assert address_of("127.0.0.1") == address_of("localhost") == "127.0.0.1"
