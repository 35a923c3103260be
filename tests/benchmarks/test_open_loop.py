"""The open loop: requests at fixed times, whatever the server does."""

import socket
import threading
import time

import pytest

from benchmarks.load import LoadError, content_length, percentile, request_bytes
from benchmarks.open_loop import Loop, schedule

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


@pytest.fixture
def answering():
    """Starts a server of one thread a connection; *pause* seconds before the first answer; *answer* to each."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    threads = []

    def start(request, *, pause=0.0, answer=ANSWER):
        lock = threading.Lock()
        paused = []

        def serve(connection):
            with connection:
                seen = b""
                while data := connection.recv(1 << 16):
                    seen += data
                    while len(seen) >= len(request):
                        seen = seen[len(request) :]
                        with lock:
                            if not paused:
                                paused.append(True)
                                time.sleep(pause)
                        try:
                            connection.sendall(answer)
                        except OSError:
                            return

        def accept():
            while True:
                try:
                    connection = listener.accept()[0]
                except OSError:
                    return
                threads.append(threading.Thread(target=serve, args=(connection,), daemon=True))
                threads[-1].start()

        threading.Thread(target=accept, daemon=True).start()
        return listener.getsockname()[1]

    yield start
    listener.close()


def test_a_schedule_is_even_and_has_at_least_one_request():
    assert schedule(4, 1.5) == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]
    assert schedule(0.1, 1) == [0.0]


def test_every_request_is_answered_and_timed(answering):
    request = request_bytes("/x", b"{}")
    loop = Loop(answering(request), request, schedule(200, 0.5))
    loop.run()
    assert len(loop.latencies) == 100
    assert min(loop.latencies) > 0


def test_a_stall_is_charged_to_everybody_who_was_due_meanwhile(answering):
    request = request_bytes("/x", b"{}")
    loop = Loop(answering(request, pause=0.5), request, schedule(200, 1.0))
    loop.run()
    # 100 requests were due in the half second: half of them waited longer than half of it
    assert sum(latency > 0.25 for latency in loop.latencies) >= 45
    assert max(loop.latencies) >= 0.45


def test_an_answer_that_is_no_200_ends_the_measurement(answering):
    request = request_bytes("/x", b"{}")
    broken = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
    loop = Loop(answering(request, answer=broken), request, schedule(100, 0.1))
    with pytest.raises(LoadError, match="503"):
        loop.run()


def test_percentiles_are_by_nearest_rank():
    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, percent) for percent in (50, 99, 100)] == [50.0, 99.0, 100.0]
    assert percentile([3.0], 99) == 3.0


def test_an_answer_of_unknown_length_is_refused():
    assert content_length(b"HTTP/1.1 200 OK\r\nContent-Length: 12") == 12
    with pytest.raises(LoadError, match="Content-Length"):
        content_length(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked")
