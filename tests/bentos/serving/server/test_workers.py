"""Several workers behind one socket: real processes, a real model, and what is killed under them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from bentos.serving.log.segments import scan_segment, segments
from tests.bentos.saved import IGNORED, logistic
from tests.bentos.servers import ROOT, Ended, Server, launch
from tests.bentos.steady import Steady

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORED]
BODY = {"dataframe_split": {"columns": ["a", "b", "c"], "data": [[0.9, 0.9, 0.1]]}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return logistic(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    arguments = ("--bento", str(model), "--workers", "3", "--drain-seconds", "0")
    with launch(*arguments, segments_folder=tmp_path_factory.mktemp("segments")) as found:
        yield found
        assert found.stop() == 0


def workers(server: Ended) -> list[int]:
    path = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


def sockets(pid: int) -> int:
    """How many sockets it has open; none when it is gone."""
    count = 0
    with suppress(FileNotFoundError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed since it was listed: a worker that starts opens and closes many
                count += "socket" in str(entry.readlink())
    return count


def alive(pid: int) -> bool:
    """Whether it runs: neither gone nor dead and not yet buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition: Callable[[], bool], what: str, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def counted(client: httpx.Client, name: str) -> float:
    """The sum of a metric's series, as whoever answers tells it."""
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}[{{ ]", line))


def test_connections_are_dealt_evenly_and_counted_together(server: Server) -> None:
    clients = [server.client() for _ in range(9)]
    before = counted(clients[0], "shipway_requests_total")
    for turn in range(3):
        for client in clients:
            assert client.post("/invocations", json=BODY).json() == {"predictions": [1]}
            assert turn or client.get("/readyz").json()["ready"]
    held = [sockets(pid) for pid in workers(server)]
    assert len(held) == 3 and max(held) - min(held) <= 1
    assert {counted(client, "shipway_requests_total") - before for client in clients} == {27.0}
    assert {counted(client, "shipway_worker_resident_bytes") > 3 * 50e6 for client in clients} == {True}
    until(lambda: counted(clients[0], "shipway_log_records_total") >= 27, "the log is written")
    for client in clients:
        client.close()
    paths = segments(server.segments)
    assert {int(path.stem.split("-")[1]) for path in paths} == set(workers(server))
    assert sum(len(scan_segment(path).records) for path in paths) >= 27


def test_a_worker_that_dies_is_started_again_and_no_sum_falls(server: Server) -> None:
    with server.client() as client:
        client.post("/invocations", json=BODY)
        before = counted(client, "shipway_requests_total")
        mine = workers(server)
    os.kill(mine[0], signal.SIGKILL)
    until(lambda: not alive(mine[0]), "it is dead")
    for _ in range(20):  # the others answer meanwhile
        with server.client() as client:
            assert client.post("/invocations", json=BODY).status_code == 200
    until(lambda: len(set(workers(server)) - set(mine)) == 1, "another one is started")
    with server.client() as client:
        assert counted(client, "shipway_requests_total") == before + 20


def test_sigterm_under_load_loses_no_request(model: Path, tmp_path: Path) -> None:
    socket_path = tmp_path / "s"
    command = [sys.executable, "-m", "bentos.serving.launcher", "--bento", str(model), "--uds", str(socket_path)]
    command += ["--workers", "2", "--drain-seconds", "0.5"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with Ended(process) as server:
        assert process.stdout is not None
        assert process.stdout.readline() == f"shipway launcher: 2 workers listening on unix:{socket_path}\n"
        assert socket_path.stat().st_mode & 0o777 == 0o600
        with Steady(BODY, uds=str(socket_path)) as traffic:
            until(lambda: sum(traffic.answers.values()) > 50, "traffic flows")
            traffic.stopped.set()  # the requests on their way are the last ones
            assert server.stop() == 0
        assert traffic.failures == []
        assert not socket_path.exists()


def test_workers_end_with_their_parent_whatever_killed_it(model: Path, tmp_path: Path) -> None:
    arguments = ("--bento", str(model), "--workers", "2")
    with launch(*arguments, segments_folder=tmp_path) as server:
        mine = workers(server)
        os.kill(mine[0], signal.SIGSTOP)  # even a stopped one
        server.process.kill()
        until(lambda: not any(alive(pid) for pid in mine), "they are dead", seconds=5)


def test_a_worker_that_cannot_start_ends_all(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors: {}")
    command = [
        sys.executable,
        "-m",
        "bentos.serving.launcher",
        "--bento",
        str(tmp_path),
        "--port",
        "0",
        "--workers",
        "2",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("shipway launcher: ") and "Traceback" not in done.stderr


def test_what_a_parent_says_reaches_all_and_whoever_comes_later(model: Path, tmp_path: Path) -> None:
    """As bentos.serving.follow.handover speaks to a server of its own, which is several here."""
    ours, theirs = socket.socketpair()
    with socket.socket() as listener, ours:
        listener.bind(("127.0.0.1", 0))
        command = [
            sys.executable,
            "-m",
            "bentos.serving.launcher",
            "--bento",
            str(model),
            "--fd",
            str(listener.fileno()),
        ]
        command += ["--parent-fd", str(theirs.fileno()), "--workers", "2"]
        descriptors = (listener.fileno(), theirs.fileno())
        with theirs:
            process = subprocess.Popen(command, cwd=ROOT, pass_fds=descriptors, stdout=subprocess.DEVNULL)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def refusals() -> set[str]:
            """Of four connections, which go to both workers."""
            clients = [httpx.Client(base_url=address) for _ in range(4)]
            said = {client.get("/readyz").json()["refused"] for client in clients}
            for client in clients:
                client.close()
            return said

        with Ended(process) as server:
            ours.settimeout(60)
            assert ours.recv(100) == b"ready\n"
            ours.sendall(b"refused m/2 is broken\n")
            until(lambda: refusals() == {"m/2 is broken"}, "both were told")
            with httpx.Client(base_url=address) as client:
                assert counted(client, "shipway_reloads_total") == 1
            before = workers(server)
            os.kill(before[0], signal.SIGKILL)
            until(lambda: len(set(workers(server)) - set(before)) == 1, "another one is started")
            until(lambda: _takes_connections(server, address), "both take connections")
            until(lambda: refusals() == {"m/2 is broken"}, "it was told too")
            ours.sendall(b"retire\n")
            assert process.wait(20) == 0


def _takes_connections(server: Ended, address: str) -> bool:
    """Whether each worker holds one of four connections."""
    clients = [httpx.Client(base_url=address) for _ in range(4)]
    pids = workers(server)
    bare = [sockets(pid) for pid in pids]
    for client in clients:
        client.get("/readyz")
    held = [sockets(pid) for pid in pids]
    for client in clients:
        client.close()
    return len(pids) == 2 and all(now > before for now, before in zip(held, bare, strict=True))


@pytest.mark.parametrize("more", [["--workers", "0"], ["--workers", "2", "--grpc-port", "0"]])
def test_what_goes_not_with_workers_is_refused(model: Path, more: list[str]) -> None:
    command = [sys.executable, "-m", "bentos.serving.launcher", "--bento", str(model), "--port", "0", *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--workers 0: expected 1 or more" in done.stderr or "--grpc-port 0 go with one worker" in done.stderr
