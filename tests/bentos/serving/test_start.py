"""Servers whose model or environment is not there when they start: real registry, real environments, real clients."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from bentos.serving.fetch.artifact_tree import tree_digest
from tests.bentos.saved import IGNORED
from tests.bentos.servers import ROOT, Ended
from tests.bentos.steady import Steady

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORED]
BODY = {"dataframe_split": {"columns": ["a", "b", "c"], "data": [[0.2, 0.4, 0.6]]}}
UV = Path(sys.executable).parent / "uv"
UV_CACHE = subprocess.run([UV, "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()

# In a process of its own: mlflow keeps the tracking URI, the experiment and the run in globals.
REGISTER = """
import sys
from importlib.metadata import version as installed
from pathlib import Path
import mlflow
from sklearn.linear_model import LinearRegression
from tests.bentos.saved import numbers, save

frame = numbers()
pins = [f"scikit-learn=={installed('scikit-learn')}", f"numpy=={installed('numpy')}"]
client = mlflow.MlflowClient()
client.create_registered_model("started")
with mlflow.start_run() as run:
    for version, more, data in [
        ("1", [], frame),
        ("2", ["idna==3.9"], frame),
        ("3", ["scipy<1.6"], frame),
        ("4", [], frame.assign(d=0.0)),
        ("5", ["idna==3.9"], frame),
        ("6", [], frame),
    ]:
        model = LinearRegression().fit(data, data.a * 0 + int(version))
        options = {"serialization_format": "cloudpickle", "pip_requirements": pins + more}
        folder = save("sklearn", model, Path(sys.argv[1]) / version, data, model.predict(data), **options)
        if version == "5":
            (folder / "model.pkl").write_bytes(b"broken")
        mlflow.log_artifacts(str(folder), version)
        client.create_model_version("started", f"runs:/{run.info.run_id}/{version}", run.info.run_id)
"""


@dataclass(frozen=True)
class Registered:
    """Versions 1, 2 and 6 answer their own number, and 2 needs other packages; 3 asks for what cannot be, 4 for a column more,
    5 has a corrupt model file. *tree* is version 1's."""

    url: str
    tree: Path
    digest: str

    def set_alias(self, version: str) -> None:
        url = f"{self.url}/api/2.0/mlflow/registered-models/alias"
        httpx.post(url, json={"name": "started", "alias": "live", "version": version}).raise_for_status()


@pytest.fixture(scope="module")
def registered(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Registered:
    folder = tmp_path_factory.mktemp("download")
    environment = {**os.environ, "MLFLOW_TRACKING_URI": mlflow_server, "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-c", REGISTER, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return Registered(mlflow_server, folder / "1", tree_digest(folder / "1"))


@pytest.fixture(scope="session")
def start_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of images that resolve dependencies at start: uv, packaging and pyyaml alone."""
    home = tmp_path_factory.mktemp("start") / "env"
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, home], check=True)
    install = [UV, "pip", "install", "--quiet", "--require-hashes", "--python", home / "bin" / "python"]
    subprocess.run([*install, "--requirements", ROOT / "infra" / "images" / "start.txt"], check=True)
    return home / "bin" / "python"


@pytest.fixture(scope="module")
def envs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of environments for all tests: each is made once."""
    return tmp_path_factory.mktemp("cache") / "envs"


@dataclass
class Started(Ended):
    """A started process on the unix socket *socket*; *log* is what it wrote."""

    socket: Path
    log: Path

    def client(self) -> httpx.Client:
        return httpx.Client(transport=httpx.HTTPTransport(uds=str(self.socket)), base_url="http://server", timeout=20)

    def state(self) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(self.socket)) != 0:
                return {"ready": False}
        with self.client() as client:
            found: dict[str, Any] = client.get("/readyz").json()
            return found

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"it ended with {self.process.poll()}:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}\n{self.log.read_text()}"
            time.sleep(0.05)

    def ready(self) -> Self:
        self.until(lambda: self.state()["ready"], "ready")
        return self


def start(python: Path, where: Path, *arguments: object, **environment: str) -> Started:
    """Starts ``python -m bentos.serving.start`` with its socket and its log in *where*."""
    where.mkdir(exist_ok=True)
    command = [str(python), "-m", "bentos.serving.start", *map(str, arguments), "--uds", str(where / "server.sock")]
    command += ["--drain-seconds", "0.2", "--poll-seconds", "0.2"]
    own = {"PYTHONPATH": str(ROOT), "UV_CACHE_DIR": UV_CACHE, **environment}
    with (where / "log").open("ab") as log:
        process = subprocess.Popen(command, cwd=where, env={**os.environ, **own}, stdout=log, stderr=log)
    return Started(process, where / "server.sock", where / "log")


def ended(started: Started, seconds: float = 60) -> tuple[int, str]:
    """Exit code and last line of a process that does not serve."""
    with started:
        code = started.process.wait(seconds)
        return code, started.log.read_text().strip().splitlines()[-1]


def pinned(registered: Registered, models: Path, **changed: str) -> list[object]:
    given = {"model": "started", "version": "1", "digest": registered.digest, "registry": registered.url, **changed}
    return ["--models", models, *(text for name, value in given.items() for text in (f"--{name}", value))]


def answers(started: Started) -> tuple[str, str, int]:
    """Model, version and prediction of one answer."""
    with started.client() as client:
        found = client.post("/invocations", json=BODY)
        number = round(found.json()["predictions"][0])
        return found.headers["x-shipway-model"], found.headers["x-shipway-version"], number


def command_of(process: subprocess.Popen[bytes]) -> str:
    return Path(f"/proc/{process.pid}/cmdline").read_text().replace("\0", " ")


# The command line


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--bento", "b"], "--bento needs --envs"),
        (["--bento", "b", "--envs", "e", "--models", "m"], "--bento goes without --models"),
        (["--model", "m", "--models", "d"], "--model needs --version, --digest, --registry"),
        (["--follow", "models:/m@a", "--models", "d", "--registry", "r", "--digest", "d"], "goes without --digest"),
        (
            ["--follow", "models:/m@a", "--models", "d", "--registry", "r", "--lock", "l"],
            "--lock goes with --model and",
        ),
        (["--model", "m", "--version", "1", "--digest", "sha256:../x", "--registry", "r", "--models", "d"], "64 hex"),
        (["--models", "d", "--envs", "e"], "one of the arguments --bento --model --follow is required"),
    ],
)
def test_a_wrong_command_line_is_refused(start_python: Path, tmp_path: Path, arguments: list[str], reason: str) -> None:
    code, line = ended(start(start_python, tmp_path, *arguments))
    assert code == 2
    assert reason in line


def test_a_wrong_argument_of_the_launcher_is_refused_before_anything_is_made(
    start_python: Path, tmp_path: Path
) -> None:
    given = ["--bento", tmp_path / "none", "--envs", tmp_path / "envs", "--sample", "much"]
    code, line = ended(start(start_python, tmp_path, *given))
    assert (code, "--sample" in line) == (2, True)
    assert not (tmp_path / "envs").exists()


# Model included, dependencies resolved


@pytest.fixture(scope="module")
def bento(registered: Registered, envs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is laid out as a sealed bento is."""
    from bentos.serving.environments.environment import Environments

    source = tmp_path_factory.mktemp("bento") / "src"
    source.mkdir()
    shutil.copytree(ROOT / "bentos", source / "bentos", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(registered.tree, source / "model")
    (source / "shipway.json").write_text(json.dumps({"model": "started", "version": "1"}))
    pins = (registered.tree / "requirements.txt").read_text().split()
    lock = Environments(envs).lock(pins, flavor="sklearn", hashed=True)
    (source / "requirements.lock").write_text(lock.text)
    return source.parent


def test_an_included_model_is_served_in_an_environment_made_at_start(
    start_python: Path, bento: Path, envs: Path, tmp_path: Path
) -> None:
    source = str(bento / "src")
    for round_ in ("made", "kept"):
        began = time.monotonic()
        with start(start_python, tmp_path, "--bento", bento, "--envs", envs, PYTHONPATH=source).ready() as started:
            assert answers(started) == ("started", "1", 1)
            command = command_of(started.process)
            assert command.startswith(str(envs)) and "-m bentos.serving.launcher" in command, (
                "the process is the launcher"
            )
            assert started.stop() == 0
        assert round_ == "made" or time.monotonic() - began < 15
    assert not started.socket.exists()
    assert len([path for path in envs.iterdir() if (path / ".complete").exists()]) == 1


def test_a_lock_whose_hashes_do_not_fit_is_refused(start_python: Path, bento: Path, tmp_path: Path) -> None:
    forged = tmp_path / "bento" / "src"
    forged.mkdir(parents=True)
    text = (bento / "src" / "requirements.lock").read_text()
    (forged / "requirements.lock").write_text(text.replace("--hash=sha256:", "--hash=sha256:00")[: len(text)])
    code, line = ended(start(start_python, tmp_path, "--bento", forged.parent, "--envs", tmp_path / "envs"))
    assert code == 1
    assert line.startswith("shipway start: ") and "hash" in line.lower()
    assert not list((tmp_path / "envs").glob("*/.complete"))
    (forged / "requirements.lock").write_text("numpy==2.0.0\n")
    code, line = ended(start(start_python, tmp_path, "--bento", forged.parent, "--envs", tmp_path / "envs"))
    assert (code, "found no hash" in line) == (1, True)


# Model pulled, dependencies included


def test_a_pulled_model_is_checked_kept_and_checked_again(registered: Registered, tmp_path: Path) -> None:
    models, python = tmp_path / "models", Path(sys.executable)
    with start(python, tmp_path, *pinned(registered, models), MLFLOW_TRACKING_TOKEN="secret").ready() as started:
        assert answers(started) == ("started", "1", 1)
        assert "-m bentos.serving.launcher" in command_of(started.process)
        assert b"MLFLOW_TRACKING_TOKEN" not in Path(f"/proc/{started.process.pid}/environ").read_bytes()
        assert started.stop() == 0
    tree = models / registered.digest.removeprefix("sha256:")
    assert tree_digest(tree) == registered.digest
    away = pinned(registered, models, registry="http://127.0.0.1:9")
    with start(python, tmp_path, *away).ready() as started:
        assert started.stop() == 0, "what is kept needs no registry"
    (tree / "MLmodel").write_text("changed: true\n")
    assert ended(start(python, tmp_path, *away)) == (75, "shipway start: http://127.0.0.1:9: the registry does not answer: <urlopen error [Errno 111] Connection refused>")  # fmt: skip
    assert not tree.exists(), "a changed tree is not kept"
    with start(python, tmp_path, *pinned(registered, models)).ready() as started:
        assert started.stop() == 0
    assert "it is deleted and fetched again" in started.log.read_text()


def test_another_digest_is_refused_and_nothing_is_kept(registered: Registered, tmp_path: Path) -> None:
    wrong = pinned(registered, tmp_path / "models", digest="sha256:" + "ab" * 32)
    code, line = ended(start(Path(sys.executable), tmp_path, *wrong))
    assert code == 1
    assert f"have the digest {registered.digest}, expected sha256:abab" in line
    assert list((tmp_path / "models").iterdir()) == []


def test_a_signal_ends_it_while_it_waits(tmp_path: Path, registered: Registered) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with start(Path(sys.executable), tmp_path, *pinned(registered, tmp_path / "models", registry=url)) as started:
            connection, _ = silent.accept()
            with connection:
                connection.recv(10)
                assert started.stop() == 128 + signal.SIGTERM


# Model pulled, dependencies resolved


def test_both_are_fetched_for_a_pinned_version(
    start_python: Path, registered: Registered, bento: Path, envs: Path, tmp_path: Path
) -> None:
    given = [*pinned(registered, tmp_path / "models"), "--envs", envs]
    for lock in ([], ["--lock", bento / "src" / "requirements.lock"]):
        with start(start_python, tmp_path, *given, *lock).ready() as started:
            assert answers(started) == ("started", "1", 1)
            assert command_of(started.process).startswith(str(envs))
            assert started.stop() == 0
    assert len([path for path in envs.iterdir() if (path / ".complete").exists()]) == 1, "equal locks, one environment"


@pytest.fixture
def followed(start_python: Path, registered: Registered, envs: Path, tmp_path: Path) -> Iterator[Started]:
    registered.set_alias("1")
    given = ["--follow", "models:/started@live", "--registry", registered.url]
    with start(start_python, tmp_path, *given, "--models", tmp_path / "models", "--envs", envs) as started:
        yield started.ready()


def test_an_alias_moves_to_other_dependencies_without_a_failed_request(
    followed: Started, registered: Registered
) -> None:
    state = followed.state
    assert state()["version"] == "1"
    with Steady(BODY, uds=str(followed.socket)) as steady:
        registered.set_alias("2")
        followed.until(lambda: state()["version"] == "2", "version 2 answers")
        for version, reason in [
            ("3", "scipy<1.6"),
            ("4", "'d' (double) is new and required"),
            ("5", "its server ended with 1"),
        ]:
            registered.set_alias(version)
            followed.until(lambda version=version: f"started/{version}" in state()["refused"], f"{version} is refused")
            assert reason in state()["refused"]
        registered.set_alias("2")
        followed.until(lambda: state()["refused"] == "", "the refusal is forgotten")
        registered.set_alias("1")
        followed.until(lambda: state()["version"] == "1", "version 1 answers again")
        registered.set_alias("6")  # at once: what is deleted of 2 must not take 6 along
        followed.until(lambda: state()["version"] == "6" or bool(state()["refused"]), "version 6 answers")
        time.sleep(1)
    assert steady.failures == []
    assert set(steady.answers) == {("1", 1), ("2", 2), ("6", 6)}, "the header says who answered"
    assert followed.stop() == 0
    assert not followed.socket.exists()
    log = followed.log.read_text()
    assert log.count("started/3 is refused") == 1, "said once"


def test_a_server_that_dies_is_started_again_and_none_outlives_its_parent(
    followed: Started, registered: Registered
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
