"""Fixtures that every room shares: the real parts that take seconds to start are started once a session."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Generator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.small_disk import SmallDisk

START_SECONDS = 180.0
os.environ.setdefault("UV_COMPILE_BYTECODE", "0")
"""Environments that tests make are started a few times each: compiling all of their packages costs more than it saves."""
GROUPS = tuple(tomllib.loads(Path(__file__).with_name("groups.toml").read_text(encoding="utf-8"))["groups"])
EMPTY = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    known = ", ".join(GROUPS)
    parser.addoption("--group", choices=GROUPS, help=f"only the long tests of this group: {known}", metavar="NAME")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --group no file is imported that has no long test."""
    if config.getoption("group") is None or collection_path.suffix != ".py":
        return None
    return True if "mark.long(" not in collection_path.read_text(encoding="utf-8") else None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A marker that names no group is an error of the file's collection."""
    report = yield
    named = {item.nodeid: _group_of(item) for item in report.result if isinstance(item, pytest.Item)}
    wrong = [f"{test}: @pytest.mark.long({name!r})" for test, name in named.items() if name not in (None, *GROUPS)]
    if wrong:
        expected = f"expected is one group of tests/groups.toml: {', '.join(GROUPS)}"
        report.outcome, report.longrepr, report.result = "failed", "\n".join([*wrong, expected]), []
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Only the group that was asked for, or what is in none. The long ones begin first: workers share files (make test)."""
    asked = config.getoption("group")
    groups = [_group_of(item) for item in items]
    others = [item for item, group in zip(items, groups, strict=True) if group != asked]
    items[:] = [item for item, group in zip(items, groups, strict=True) if group == asked]
    if others:
        config.hook.pytest_deselected(items=others)
    config.stash[EMPTY] = asked is not None and not items
    items.sort(key=lambda item: "e2e" not in item.path.parts)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A group that has no tests yet has not failed."""
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and session.config.stash.get(EMPTY, False):
        session.exitstatus = pytest.ExitCode.OK


def _group_of(item: pytest.Item) -> str | None:
    """The group that a test's marker names; None: it is not long."""
    marker = item.get_closest_marker("long")
    return None if marker is None else " ".join(map(str, marker.args))


def free_port() -> int:
    """A TCP port of loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def small_disk() -> Iterator[SmallDisk]:
    """A disk that can be full. Its path is short: unix sockets lie on it."""
    with tempfile.TemporaryDirectory(prefix="sw-disk-") as folder:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True
        )
        if mounted.returncode != 0:
            pytest.skip(f"no file system can be mounted here, which needs root: {mounted.stderr.strip()}")
        try:
            yield SmallDisk(Path(folder))
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="session")
def envs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of environments for all tests, whichever worker runs them: each is made once."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "envs"


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a real MLflow server: SQLite, artifacts served by it, one worker; it lives for the session."""
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    log = folder / "server.log"
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")},
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "GIT_PYTHON_REFRESH": "quiet",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait_for_health(uri, server, log)
        yield uri
    finally:
        _stop_group(server)


def _wait_for_health(uri: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"the MLflow server ended with {server.returncode}:\n{log.read_text()[-3000:]}")
        try:
            if httpx.get(f"{uri}/health", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the MLflow server was not ready within {START_SECONDS:.0f} s:\n{log.read_text()[-3000:]}")


def _stop_group(server: subprocess.Popen[bytes]) -> None:
    """Stops the server with its workers: they share a process group of their own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
        except ProcessLookupError:
            break
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            continue
    server.wait(timeout=10)
