"""Long bodies through the real Envoy: asked again of the baseline up to the limit, refused above it, in bounded memory."""

import http.client
import json
import socket
import threading
import time
from collections import Counter
from dataclasses import replace

import psutil
import pytest

MIB = 1 << 20


def path_of(plan):
    return f"/models/{plan.model}/invocations"


def chunked(size):
    """A body whose length is not told beforehand."""
    part = b"x" * MIB
    return (part[: min(MIB, size - at)] for at in range(0, size, MIB))


@pytest.mark.parametrize("size", [17 * MIB, 40 * MIB, 64 * MIB])
@pytest.mark.parametrize("mode", ["broken", "hangs"])
def test_the_baseline_answers_a_body_of_any_length_that_servers_take(envoy, serve, plan_of, mode, size):
    gateway, client = envoy
    first, second = serve("1", "2")
    second.get(f"/mode/{mode}")
    plan = plan_of(first, second, weight=100, candidate_timeout_seconds=0.5)
    gateway.apply(plan)
    for body in (bytes(size), chunked(size)):
        status, headers, answer = client.ask(path_of(plan), body=body)
        assert (status, headers["x-shipway-version"]) == (200, "1"), answer[:300]
        assert headers["x-shipway-fallback"] == "candidate/2"
        assert json.loads(answer)["size"] == size
    stats = gateway.stats(plan.model)[plan.candidate.deployment]
    assert stats.failures_5xx + stats.timeouts == 2


@pytest.mark.parametrize("limit", [2 * MIB, 96 * MIB])
def test_a_split_takes_what_the_policy_allows_and_refuses_the_rest_in_words(envoy, serve, plan_of, limit):
    gateway, client = envoy
    first, second = serve("1", "2")
    second.get("/mode/broken")
    plan = replace(plan_of(first, second, weight=100), largest_body=limit)
    gateway.apply(plan)
    assert gateway.plan(plan.model) == plan
    assert client.ask(path_of(plan), body=bytes(limit))[0] == 200
    for body in (bytes(limit + 1), chunked(limit + 1)):
        status, headers, answer = client.ask(path_of(plan), body=body)
        assert (status, headers["content-type"]) == (413, "application/json")
        assert "serving.largest_body_mb" in json.loads(answer)["error"]


@pytest.mark.parametrize("size", [17 * MIB, 60 * MIB])
def test_a_long_body_is_mirrored_whole(envoy, serve, plan_of, size):
    gateway, client = envoy
    first, second = serve("1", "2")
    plan = plan_of(first, second, mirror=100.0)
    gateway.apply(plan)
    assert client.ask(path_of(plan), body=bytes(size))[0] == 200
    deadline = time.monotonic() + 10
    while not second.get("/counts")["longest"] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert second.get("/counts")["longest"] == size


def test_a_slow_upload_is_not_the_candidates_time(envoy, serve, plan_of):
    gateway, client = envoy
    first, second = serve("1", "2")
    plan = plan_of(first, second, weight=100, candidate_timeout_seconds=0.3)
    gateway.apply(plan)

    def slowly():
        for _ in range(5):
            yield b"x" * 1000
            time.sleep(0.2)

    status, headers, answer = client.ask(path_of(plan), body=slowly())
    assert (status, headers["x-shipway-version"]) == (200, "2")
    assert json.loads(answer)["size"] == 5000
    assert gateway.stats(plan.model)[plan.candidate.deployment].timeouts == 0


def test_many_long_bodies_at_once_cost_no_more_memory_than_allowed(make_gateway, start_envoy, serve, plan_of):
    gateway, port = make_gateway(memory_mb=300)
    process = start_envoy(gateway)
    try:
        first, second = serve("1", "2")
        plan = plan_of(first, second, weight=100, candidate_timeout_seconds=5.0)
        gateway.apply(plan)
        ends, stop = Counter(), threading.Event()
        threads = [threading.Thread(target=_upload_and_wait, args=(port, path_of(plan), ends, stop)) for _ in range(16)]
        for thread in threads:
            thread.start()
        highest, deadline = 0, time.monotonic() + 6
        while time.monotonic() < deadline:
            highest = max(highest, psutil.Process(process.pid).memory_info().rss)
            time.sleep(0.05)
        stop.set()
        for thread in threads:
            thread.join(timeout=30)
        assert highest < 750 * MIB, (
            "of 944 MiB sent: the allowed 300, what Envoy is itself, and what comes between two looks at it"
        )
        assert ends["refused"], ends
        deadline = time.monotonic() + 10
        while (found := _ask(port, path_of(plan), b"{}")) == 503 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert found == 200, "requests pass again once the long ones are gone"
    finally:
        process.kill()
        process.wait()


def _upload_and_wait(port, path, ends, stop):
    """Uploads all but the end of a body of 60 MiB, and holds the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=8) as connection:
        head = f"POST {path} HTTP/1.1\r\nhost: gateway\r\ncontent-length: {60 * MIB}\r\n\r\n"
        try:
            connection.sendall(head.encode())
            for _ in range(59):
                if stop.is_set():
                    break
                connection.sendall(bytes(MIB))
            connection.settimeout(0.5)
            while not stop.is_set():
                try:
                    answer = connection.recv(4096)
                except TimeoutError:
                    continue
                ends["refused"] += not answer or b" 503 " in answer.split(b"\r\n")[0]
                return
        except OSError:
            ends["refused"] += 1


def _ask(port, path, body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", path, body=body)
        return connection.getresponse().status
    except OSError:
        return 503
    finally:
        connection.close()
