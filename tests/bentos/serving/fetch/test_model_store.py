"""What is kept of pulled models, and what is deleted: real folders, locks held by real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bentos.serving.fetch.artifact_tree import tree_digest
from bentos.serving.fetch.download import RegistryAway
from bentos.serving.fetch.model_store import ModelStore

NOWHERE = "http://127.0.0.1:9"
HOLD = """
import os, sys
from pathlib import Path
from bentos.serving.fetch.model_store import ModelStore
models = ModelStore(Path(sys.argv[1]))
models.pull("http://127.0.0.1:9", "toy", "1", sys.argv[2])
os.execv(sys.executable, [sys.executable, "-c", "print('held', flush=True); input()"])
"""


def keep(folder: Path, text: str, *versions: str, model: str = "toy") -> str:
    """Lays out a tree as if it had been pulled as *versions* of *model*; its digest."""
    new = folder / "new"
    new.mkdir(parents=True)
    (new / "MLmodel").write_text(text)
    digest = tree_digest(new)
    new.rename(folder / digest.removeprefix("sha256:"))
    for version in versions:
        (folder / f"{model}-{version}.json").write_text(json.dumps({"source": text, "digest": digest}))
    return digest


def kept(folder: Path) -> set[str]:
    return {f"sha256:{path.name}" for path in folder.iterdir() if path.is_dir()}


def test_other_versions_are_forgotten_but_trees_that_someone_else_needs(tmp_path: Path) -> None:
    one, two, three = keep(tmp_path, "1", "1"), keep(tmp_path, "2", "2"), keep(tmp_path, "3", "3", "4")
    shared = keep(tmp_path, "shared", "5")
    (tmp_path / "toy-cars-5.json").write_text((tmp_path / "toy-5.json").read_text())
    ModelStore(tmp_path).forget_others("toy", "2", "4")
    assert kept(tmp_path) == {two, three, shared}
    assert one not in kept(tmp_path)
    assert {path.name for path in tmp_path.glob("*.json")} == {"toy-2.json", "toy-4.json", "toy-cars-5.json"}


def test_a_tree_in_use_stays_through_an_exec_of_its_user(tmp_path: Path) -> None:
    digest = keep(tmp_path, "1", "1")
    command = [sys.executable, "-c", HOLD, str(tmp_path), digest]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == b"held\n"
        ModelStore(tmp_path).forget_others("toy")
        assert kept(tmp_path) == {digest}
        user.communicate(b"\n")
    keep(tmp_path / "aside", "1", "1")
    (tmp_path / "aside" / "toy-1.json").rename(tmp_path / "toy-1.json")
    ModelStore(tmp_path).forget_others("toy")
    assert digest not in kept(tmp_path)


def test_a_changed_tree_is_deleted(tmp_path: Path) -> None:
    digest = keep(tmp_path, "1", "1")
    assert ModelStore(tmp_path).pull(NOWHERE, "toy", "1", digest) == tmp_path / digest.removeprefix("sha256:")
    (tmp_path / digest.removeprefix("sha256:") / "extra").symlink_to("/etc/passwd")
    with pytest.raises(RegistryAway):
        ModelStore(tmp_path).pull(NOWHERE, "toy", "1", digest)
    assert kept(tmp_path) == set()
