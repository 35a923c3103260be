"""HTTP/1.1 on real sockets: order, limits, bad input, slow clients, the end of connections."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bentos.serving.server import http1
from bentos.serving.server.dataplane import DataPlane, Page, Route
from bentos.serving.server.messages import Answer
from tests.bentos.planes import BODY, Client, Sums, live, post, served

GET = b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture(scope="module")
def plane() -> DataPlane:
    return DataPlane(live(Sums(), {1: 1e-6, 32: 2e-6}), largest_body=100_000)


@pytest.fixture(scope="module")
def port(plane: DataPlane) -> Iterator[int]:
    with served(plane) as found:
        yield found


def test_a_prediction_and_its_headers(port: int) -> None:
    with Client(port) as client:
        status, headers, body = client.send(
            post(more="x-request-id: r-1\r\nx-shipway-assigned: candidate/3\r\n")
        ).answer()
        assert (status, json.loads(body)) == (200, {"predictions": [3.5]})
        assert headers["x-request-id"] == "r-1"
        assert (headers["x-shipway-model"], headers["x-shipway-version"]) == ("m", "3")
        assert headers["x-shipway-arm"] == "candidate"
        assert client.send(post(b"[")).answer()[0] == 400
        assert client.send(GET).answer()[0] == 200


def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    with Client(port) as client:
        bodies = [json.dumps({"instances": [[number, 0.5]]}).encode() for number in range(20, 70)]
        client.send(b"".join(post(body) for body in bodies) + GET)
        assert [json.loads(client.answer()[2])["predictions"] for _ in bodies] == [[n + 0.5] for n in range(20, 70)]
        assert client.answer()[0] == 200


def test_a_client_that_sends_many_requests_at_once_lets_others_between(
    plane: DataPlane, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    resolve = plane.resolve

    def slowly(method: str, path: str) -> Route:
        found = resolve(method, path)
        assert isinstance(found, Page)

        def answer(body: bytes) -> Answer:
            seen.append(path)
            time.sleep(0.005)
            return found.answer(body)

        return Page(answer)

    monkeypatch.setattr(plane, "resolve", slowly)
    with Client(port) as many, Client(port) as one:
        many.send(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n" * 100)
        while not seen:
            time.sleep(0.001)
        assert one.send(b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n").answer()[0] == 200
        assert [many.answer()[2] for _ in range(100)] == [b"ok\n"] * 100
    assert seen.index("/ping") < 20  # not eight at a time: each of these takes long
    assert seen.count("/livez") == 100


def test_pipelined_requests_to_a_slow_model_are_answered_in_order() -> None:
    with served(DataPlane(live(Sums(0.01), {1: 0.01}))) as port, Client(port) as client:
        client.send(b"".join(post(b'{"instances":[[%d,0]]}' % number) for number in range(5)) + GET)
        assert [json.loads(client.answer()[2])["predictions"] for _ in range(5)] == [[float(n)] for n in range(5)]
        assert client.answer()[0] == 200


def test_a_request_may_come_byte_by_byte(port: int) -> None:
    with Client(port) as client:
        for number in post():
            client.send(bytes([number]))
        assert client.answer()[0] == 200


def test_chunked_bodies(port: int) -> None:
    head = b"POST /invocations HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    with Client(port) as client:
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:5], BODY[5:])) + b"0\r\n\r\n"
        assert client.send(head + chunks).answer()[0] == 200
        endless = b"%x\r\n%s\r\n" % (60_000, b" " * 60_000)
        status, headers, _ = client.send(head + endless + endless).answer()
        assert (status, headers["connection"]) == (413, "close")
        assert client.closed()


@pytest.mark.parametrize(("path", "form"), [("/invocations", "message"), ("/v2/models/m/infer", "error")])
def test_a_body_longer_than_allowed_is_413_before_it_is_sent(port: int, path: str, form: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 100001\r\n\r\n"
    with Client(port) as client:
        status, _, body = client.send(head.encode()).answer()
        assert status == 413
        assert "at most 100000 bytes" in json.loads(body)[form]
        assert client.closed()


def test_a_client_that_asks_before_it_sends(port: int) -> None:
    with Client(port) as client:
        whole = post(more="expect: 100-continue\r\n")
        head, body = whole.split(b"\r\n\r\n", 1)
        assert client.send(head + b"\r\n\r\n").answer()[0] == 100
        assert client.send(body).answer()[0] == 200


def test_pages_run_nothing_and_what_a_model_is_called_stays_text() -> None:
    named = live(Sums(), {1: 1e-6})
    named = replace(named, model="<script>alert(1)</script>")
    with served(DataPlane(named)) as port, Client(port) as client:
        for path in ("/docs", "/readyz", "/metrics", "/nothing"):
            _, headers, body = client.send(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()).answer()
            assert headers["content-security-policy"].startswith("default-src 'none'; style-src 'unsafe-inline'")
            assert headers["x-content-type-options"] == "nosniff"
            assert path != "/docs" or b"<script" not in body


def test_other_methods_and_pages(port: int) -> None:
    with Client(port) as client:
        assert client.send(b"GET /invocations HTTP/1.1\r\nhost: x\r\n\r\n").answer()[0] == 405
        assert client.send(post(path="/readyz")).answer()[0] == 405
        assert client.send(post(path="/nothing")).answer()[0] == 404
        assert client.send(post(path="/v2/models/other/infer")).answer()[0] == 404
        status, headers, body = client.send(b"HEAD /readyz HTTP/1.1\r\nhost: x\r\n\r\n").answer(head=True)
        assert (status, body) == (200, b"")
        assert int(headers["content-length"]) > 0
        assert client.send(b"GET http://x/readyz?a=b HTTP/1.1\r\nhost: x\r\n\r\n").answer()[0] == 200
        assert client.send(b"GET /%72eadyz HTTP/1.1\r\nhost: x\r\n\r\n").answer()[0] == 200


@pytest.mark.parametrize(
    "head", [b"GET /readyz HTTP/1.0\r\n\r\n", b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"]
)
def test_connections_that_end_after_one_answer(port: int, head: bytes) -> None:
    with Client(port) as client:
        status, headers, _ = client.send(head).answer()
        assert (status, headers["connection"]) == (200, "close")
        assert client.closed()


def test_a_body_beside_an_upgrade_is_read(port: int) -> None:
    """As Java's HttpClient and curl --http2 send it."""
    more = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAAB\r\n"
    whole = post(more=more)
    for cut in (len(whole), len(whole) - 5, whole.index(b"\r\n\r\n") + 4, 30):
        with Client(port) as client:
            client.send(whole[:cut])
            time.sleep(0.05)
            status, headers, body = client.send(whole[cut:] + b"more").answer()
            assert (status, json.loads(body), headers["connection"]) == (200, {"predictions": [3.5]}, "close")
            assert client.closed()
    with Client(port) as client:
        head, body = post(more=more + "expect: 100-continue\r\n").split(b"\r\n\r\n", 1)
        assert client.send(head + b"\r\n\r\n").answer()[0] == 100
        assert client.send(body).answer()[0] == 200
    with Client(port) as client:
        chunked = b"POST /invocations HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
        assert client.send(chunked).answer()[0] == 411


def test_an_endless_trailer_is_refused(port: int) -> None:
    head = b"POST /invocations HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    with Client(port) as client:
        client.send(head + b"%x\r\n%s\r\n0\r\nx: " % (len(BODY), BODY))
        for _ in range(20):
            client.send(b"a" * 65536)
        assert client.answer()[0] == 431
        assert client.closed()


def test_an_upgrade_is_answered_without(port: int) -> None:
    with Client(port) as client:
        asked = b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
        assert client.send(asked).answer()[0] == 200
        assert client.closed()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        (b"POST /invocations HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"h%d: %s\r\n" % (n, b"v" * 1000) for n in range(80)) + b"\r\n", 431),
    ],
)
def test_what_is_no_request_is_refused(port: int, sent: bytes, status: int) -> None:
    with Client(port) as client:
        assert client.send(sent).answer()[0] == status
        assert client.closed()
    with Client(port) as client:
        assert client.send(post()).answer()[0] == 200


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.binary(max_size=300), st.binary(max_size=40).map(lambda junk: post()[:60] + junk + post()[60:])))
def test_no_bytes_stop_the_server(port: int, junk: bytes) -> None:
    with Client(port, 0.2) as client:
        client.send(junk)
    with Client(port) as client:
        assert client.send(post()).answer()[0] == 200


def test_a_slow_body_ends_in_408_and_starves_nobody(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "BODY_SECONDS", 0.5)
    slow = [Client(port).send(post()[:-3]) for _ in range(50)]
    with Client(port) as client:
        took = []
        for _ in range(100):
            began = time.perf_counter()
            assert client.send(post()).answer()[0] == 200
            took.append(time.perf_counter() - began)
        assert sorted(took)[50] < 0.05
    for client in slow:
        assert client.answer()[0] == 408
        client.socket.close()


def test_an_idle_connection_is_closed(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "IDLE_SECONDS", 0.3)
    with Client(port) as client:
        client.send(GET).answer()
        assert client.closed()


def test_a_client_that_does_not_read_is_cut_off_and_starves_nobody(plane: DataPlane, port: int, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(http1, "BODY_SECONDS", 0.5)
    page = b"GET /docs HTTP/1.1\r\nhost: x\r\n\r\n"
    with Client(port, 20) as stuck, Client(port) as client:
        stuck.socket.settimeout(0.5)
        with pytest.raises((TimeoutError, ConnectionError)):  # answers pile up, then nothing more is read from it
            for _ in range(100_000):
                stuck.send(page * 100)
        for _ in range(50):
            assert client.send(post()).answer()[0] == 200
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                stuck.send(page)
            except TimeoutError:
                continue
            except ConnectionError:
                return
            time.sleep(0.1)
        pytest.fail("the connection is still open")


def test_a_client_that_left_harms_nothing() -> None:
    predictor = Sums(0.2)
    with served(DataPlane(live(predictor, {1: 0.2}))) as port:
        with Client(port) as gone:
            gone.send(post())
            time.sleep(0.05)
        with Client(port) as client:
            assert client.send(post()).answer()[0] == 200
    assert predictor.calls == [1, 1]


def test_requests_in_flight_finish_when_the_server_stops() -> None:
    found: list[int] = []

    def ask(client: Client) -> None:
        found.append(client.send(post()).answer()[0])

    with served(DataPlane(live(Sums(0.5), {1: 0.5}))) as port:
        client = Client(port)
        thread = threading.Thread(target=ask, args=(client,))
        thread.start()
        time.sleep(0.2)
    thread.join()
    client.socket.close()
    assert found == [200]


def test_a_header_without_end_is_refused(port: int) -> None:
    with Client(port) as client, pytest.raises((ConnectionError, TimeoutError)):
        client.send(b"GET / HTTP/1.1\r\nx: ")
        for _ in range(2000):
            client.send(b"a" * 65536)
            time.sleep(0.001)


def test_a_trailer_changes_no_header(port: int) -> None:
    head = (
        b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    with Client(port) as client:
        client.send(head + b"%x\r\n%s\r\n0\r\ncontent-type: image/png\r\n\r\n" % (len(BODY), BODY))
        assert client.answer()[0] == 200


def test_whole_requests_are_answered_before_a_bad_one_ends_the_connection() -> None:
    with served(DataPlane(live(Sums(0.05), {1: 0.05}))) as port, Client(port) as client:
        client.send(post() + post() + b"no request\r\n\r\n")
        assert [client.answer()[0] for _ in range(2)] == [200, 200]
        assert client.closed()


def test_a_client_that_said_all_gets_its_answers_and_an_end() -> None:
    with served(DataPlane(live(Sums(0.1), {1: 0.1}))) as port, Client(port) as client:
        client.send(post() + post())
        client.socket.shutdown(socket.SHUT_WR)
        assert [client.answer()[0] for _ in range(2)] == [200, 200]
        assert client.closed()


def test_http_1_0_is_closed_whatever_it_asks(port: int) -> None:
    with Client(port) as client:
        status, headers, _ = client.send(b"GET /readyz HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").answer()
        assert (status, headers["connection"]) == (200, "close")
        assert client.closed()


def test_a_request_that_is_being_sent_is_answered_when_the_server_stops() -> None:
    plane = DataPlane(live(Sums(), {1: 1e-6}))
    client = None
    with served(plane) as port:
        client = Client(port).send(post()[:-3])
        time.sleep(0.2)
        threading.Timer(0.4, client.send, [post()[-3:]]).start()
    assert client.answer()[0] == 200
    client.socket.close()


def test_a_client_that_does_not_read_does_not_keep_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "BODY_SECONDS", 0.5)
    page = b"GET /docs HTTP/1.1\r\nhost: x\r\n\r\n"
    with served(DataPlane(live(Sums(), {1: 1e-6}))) as port:
        stuck = Client(port, 0.3)
        with pytest.raises((TimeoutError, ConnectionError)):
            for _ in range(100_000):
                stuck.send(page * 100)
        began = time.monotonic()
    assert time.monotonic() - began < 8
    stuck.socket.close()
