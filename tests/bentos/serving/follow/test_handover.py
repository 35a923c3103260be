"""Servers that follow an alias on a real MLflow server, under steady traffic, with no failed request."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version as installed
from pathlib import Path
from threading import Thread

import httpx
import pytest

from bentos.serving.fetch.download import DownloadError
from bentos.serving.fetch.model_store import ModelStore
from bentos.serving.follow.upcoming import Followed
from tests.bentos.saved import IGNORED
from tests.bentos.started import BODY, Started, Versions, answers, ended, start
from tests.bentos.steady import Steady

pytestmark = [
    pytest.mark.long("following"),
    pytest.mark.timeout(600),
    *(pytest.mark.filterwarnings(line) for line in IGNORED),
]
HERE = Path(sys.executable)


def following(registry: str, where: Path, uri: str = "models:/started@live") -> list[object]:
    return ["--follow", uri, "--registry", registry, "--models", where / "models", "--poll-seconds", "0.2"]


def metrics(started: Started) -> str:
    with started.client() as client:
        return client.get("/metrics").text


# In environments made for each version


@pytest.fixture
def followed(start_python: Path, versions: Versions, envs: Path, tmp_path: Path) -> Iterator[Started]:
    versions.set_alias("1")
    with start(start_python, tmp_path, *following(versions.url, tmp_path), "--envs", envs) as started:
        yield started.ready()


def test_an_alias_moves_to_other_dependencies_without_a_failed_request(followed: Started, versions: Versions) -> None:
    state = followed.state
    assert state()["version"] == "1"
    with Steady(BODY, uds=str(followed.socket)) as steady:
        versions.set_alias("2")
        followed.until(lambda: state()["version"] == "2", "version 2 answers")
        for version, reason in [
            ("3", "scipy<1.6"),
            ("4", "'d' (double) is new and required"),
            ("5", "its server ended with 1: the sklearn model in"),
        ]:
            versions.set_alias(version)
            followed.until(lambda version=version: f"started/{version}" in state()["refused"], f"{version} is refused")
            assert reason in state()["refused"]
        versions.set_alias("2")
        followed.until(lambda: state()["refused"] == "", "the refusal is forgotten")
        versions.set_alias("1")
        followed.until(lambda: state()["version"] == "1", "version 1 answers again")
        versions.set_alias("6")  # at once: what is deleted of 2 must not take 6 along
        followed.until(lambda: state()["version"] == "6" or bool(state()["refused"]), "version 6 answers")
        time.sleep(1)
    assert steady.failures == []
    assert set(steady.answers) == {("1", 1), ("2", 2), ("6", 6)}, "the header says who answered"
    assert followed.stop() == 0
    assert not followed.socket.exists()
    log = followed.log.read_text()
    assert log.count("started/3 is refused") == 1, "said once"


def test_a_server_that_dies_is_started_again_and_none_outlives_its_parent(
    followed: Started, versions: Versions
) -> None:
    (first,) = children(followed.process.pid)
    os.kill(first, signal.SIGKILL)
    assert answers(followed) == ("started", "1", 1), "the socket stays: requests wait for the next server"
    (second,) = children(followed.process.pid)
    assert second != first
    followed.process.kill()
    followed.process.wait()
    deadline = time.monotonic() + 10
    while alive(second):
        assert time.monotonic() < deadline, "the server outlived its parent by 10 s"
        time.sleep(0.05)


def children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text() != ""  # a zombie has none
    except FileNotFoundError:
        return False


# In the interpreter that is there


@pytest.mark.parametrize("more", [[], ["--workers", "2"]], ids=["one process", "two workers"])
def test_without_environments_versions_run_in_this_interpreter(
    versions: Versions, tmp_path: Path, more: list[str]
) -> None:
    versions.set_alias("1")
    with start(HERE, tmp_path, *following(versions.url, tmp_path), *more, MLFLOW_TRACKING_TOKEN="secret") as started:
        state = started.ready().state
        (server,) = children(started.process.pid)
        assert b"MLFLOW_TRACKING_TOKEN" not in Path(f"/proc/{server}/environ").read_bytes()
        with Steady(BODY, uds=str(started.socket)) as steady:
            versions.set_alias("6")
            started.until(lambda: state()["version"] == "6", "version 6 answers")
            started.until(lambda: 'shipway_reloads_total{outcome="taken"} 1.0' in metrics(started), "it is counted")
            for version, reason in [
                ("2", f"idna==3.9 (found {installed('idna')})"),
                ("4", "'d' (double) is new and required"),
                ("5", "cannot be loaded"),
            ]:
                versions.set_alias(version)
                started.until(lambda number=version: f"started/{number}" in state()["refused"], f"{version} is refused")
                assert reason in state()["refused"]
                if version == "2":
                    assert f"it asks for scikit-learn=={installed('scikit-learn')}" in state()["refused"]
                    assert f"this environment has scikit-learn {installed('scikit-learn')}" in state()["refused"]
            assert "shipway_reload_refused_now{" in metrics(started)
            assert 'shipway_reloads_total{outcome="refused"} 3.0' in metrics(started)
            assert state()["version"] == "6"
            versions.set_alias("6")
            started.until(lambda: state()["refused"] == "", "the refusal is forgotten")
            assert "shipway_reload_refused_now{" not in metrics(started)
            assert 'shipway_reloads_total{outcome="kept"} 1.0' in metrics(started)
            versions.set_alias("1")
            started.until(lambda: state()["version"] == "1", "version 1 answers again")
        assert steady.failures == []
        assert set(steady.answers) == {("1", 1), ("6", 6)}, "the header says who answered"
        assert started.stop() == 0
    assert not started.socket.exists()


@contextmanager
def door(registry: str, port: int = 0) -> Iterator[str]:
    """The registry at an address of its own, as long as the ``with`` lasts."""

    class Through(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = httpx.get(registry + self.path)
            self.send_response(found.status_code)
            self.end_headers()
            self.wfile.write(found.content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Through) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_registry_that_is_away_is_waited_for(versions: Versions, tmp_path: Path) -> None:
    versions.set_alias("1")
    with door(versions.url) as registry:
        started = start(HERE, tmp_path, *following(registry, tmp_path)).ready()
    with started:
        started.until(lambda: "the registry does not answer" in started.log.read_text(), "it is away")
        time.sleep(1)
        assert answers(started) == ("started", "1", 1)
        versions.set_alias("6")
        with door(versions.url, int(registry.rsplit(":", 1)[1])):
            started.until(lambda: started.state()["version"] == "6", "version 6 answers")
        assert started.log.read_text().count("the registry does not answer") <= 2, "said once while it lasts"
        assert started.stop() == 0


@pytest.mark.parametrize(
    ("uri", "version", "code", "reason"),
    [
        ("models:/nobody@live", "1", 1, "nobody"),
        ("models:/nobody/3", "1", 1, "expected models:/NAME@ALIAS"),
        ("models:/started@live", "2", 1, f"Not satisfied: idna==3.9 (found {installed('idna')})"),
        ("models:/started@live", "5", 1, "cannot be loaded"),
    ],
)
def test_a_first_version_that_cannot_be_served_ends_with_one_line(
    versions: Versions, tmp_path: Path, uri: str, version: str, code: int, reason: str
) -> None:
    versions.set_alias(version)
    assert (found := ended(start(HERE, tmp_path, *following(versions.url, tmp_path, uri))))[0] == code
    assert reason in found[1]
    assert not list((tmp_path / "models").glob(".partial-*")), "nothing half-made is left"


def test_a_registry_that_is_away_at_the_start_may_be_tried_again(tmp_path: Path) -> None:
    code, line = ended(start(HERE, tmp_path, *following("http://127.0.0.1:9", tmp_path)))
    assert (code, "the registry does not answer" in line) == (75, True)


def test_a_version_that_the_registry_has_not_is_named(versions: Versions, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="99"):
        Followed("started", "live", versions.url, ModelStore(tmp_path), None).prepare("99")
    assert not list(tmp_path.iterdir()), "nothing half-made is left"
