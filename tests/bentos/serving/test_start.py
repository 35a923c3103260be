"""Servers whose model or environment is not there when they start: real registry, real environments, real clients."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest

from bentos.serving.fetch.artifact_tree import tree_digest
from tests.bentos.saved import IGNORED
from tests.bentos.servers import ROOT
from tests.bentos.started import Versions, answers, command_of, ended, pinned, start

pytestmark = [*(pytest.mark.filterwarnings(line) for line in IGNORED), pytest.mark.timeout(600)]

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
        (["--bento", "b", "--envs", "e", "--poll-seconds", "1"], "--poll-seconds 1: expected --follow beside it"),
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
def bento(versions: Versions, envs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is laid out as a sealed bento is."""
    from bentos.serving.environments.environment import Environments

    source = tmp_path_factory.mktemp("bento") / "src"
    source.mkdir()
    shutil.copytree(ROOT / "bentos", source / "bentos", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(versions.tree, source / "model")
    (source / "shipway.json").write_text(json.dumps({"model": "started", "version": "1"}))
    pins = (versions.tree / "requirements.txt").read_text().split()
    lock = Environments(envs).lock(pins, flavor="sklearn", hashed=True)
    (source / "requirements.lock").write_text(lock.text)
    return source.parent


def test_an_included_model_is_served_in_an_environment_made_at_start(
    start_python: Path, bento: Path, envs: Path, tmp_path: Path
) -> None:
    source = str(bento / "src")
    made: list[tuple[Path, int]] = []  # which environments there are, and when each was made
    for _ in range(2):
        with start(start_python, tmp_path, "--bento", bento, "--envs", envs, PYTHONPATH=source).ready() as started:
            assert answers(started) == ("started", "1", 1)
            command = command_of(started.process)
            assert command.startswith(str(envs)) and "-m bentos.serving.launcher" in command, (
                "the process is the launcher"
            )
            assert started.stop() == 0
        made += [(path, path.stat().st_mtime_ns) for path in envs.glob("*/.complete")]
    assert not started.socket.exists()
    assert len(made) == 2 and made[0] == made[1], "it is made once, and kept"


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


def test_a_pulled_model_is_checked_kept_and_checked_again(versions: Versions, tmp_path: Path) -> None:
    models, python = tmp_path / "models", Path(sys.executable)
    with start(python, tmp_path, *pinned(versions, models), MLFLOW_TRACKING_TOKEN="secret").ready() as started:
        assert answers(started) == ("started", "1", 1)
        assert "-m bentos.serving.launcher" in command_of(started.process)
        assert b"MLFLOW_TRACKING_TOKEN" not in Path(f"/proc/{started.process.pid}/environ").read_bytes()
        assert started.stop() == 0
    tree = models / versions.digest.removeprefix("sha256:")
    assert tree_digest(tree) == versions.digest
    away = pinned(versions, models, registry="http://127.0.0.1:9")
    with start(python, tmp_path, *away).ready() as started:
        assert started.stop() == 0, "what is kept needs no registry"
    (tree / "MLmodel").write_text("changed: true\n")
    assert ended(start(python, tmp_path, *away)) == (75, "shipway start: http://127.0.0.1:9: the registry does not answer: <urlopen error [Errno 111] Connection refused>")  # fmt: skip
    assert not tree.exists(), "a changed tree is not kept"
    with start(python, tmp_path, *pinned(versions, models)).ready() as started:
        assert started.stop() == 0
    assert "it is deleted and fetched again" in started.log.read_text()


def test_another_digest_is_refused_and_nothing_is_kept(versions: Versions, tmp_path: Path) -> None:
    wrong = pinned(versions, tmp_path / "models", digest="sha256:" + "ab" * 32)
    code, line = ended(start(Path(sys.executable), tmp_path, *wrong))
    assert code == 1
    assert f"have the digest {versions.digest}, expected sha256:abab" in line
    assert list((tmp_path / "models").iterdir()) == []


def test_a_signal_ends_it_while_it_waits(tmp_path: Path, versions: Versions) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with start(Path(sys.executable), tmp_path, *pinned(versions, tmp_path / "models", registry=url)) as started:
            connection, _ = silent.accept()
            with connection:
                connection.recv(10)
                assert started.stop() == 128 + signal.SIGTERM


# Model pulled, dependencies resolved


def test_both_are_fetched_for_a_pinned_version(
    start_python: Path, versions: Versions, bento: Path, envs: Path, tmp_path: Path
) -> None:
    given = [*pinned(versions, tmp_path / "models"), "--envs", envs]
    for lock in ([], ["--lock", bento / "src" / "requirements.lock"]):
        with start(start_python, tmp_path, *given, *lock).ready() as started:
            assert answers(started) == ("started", "1", 1)
            assert command_of(started.process).startswith(str(envs))
            assert started.stop() == 0
    assert len([path for path in envs.iterdir() if (path / ".complete").exists()]) == 1, "equal locks, one environment"
