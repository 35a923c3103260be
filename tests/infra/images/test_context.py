"""Build contexts are the same whoever writes them."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from infra.images.context import archive, lay_out
from infra.images.template import Recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    source = tmp_path / "source"
    (source / "bentos" / "__pycache__").mkdir(parents=True, mode=0o700)
    (source / "bentos" / "server.py").write_text("x = 1\n")
    (source / "bentos" / "server.py").chmod(0o600)
    (source / "bentos" / "__pycache__" / "server.pyc").write_bytes(b"another Python's")
    (source / "model" / "__pycache__").mkdir(parents=True)
    (source / "model" / "__pycache__" / "its.pyc").write_bytes(b"the model's own")
    os.utime(source / "bentos" / "server.py", (1e9, 1e9))
    return Recipe(("FROM x AS app",), "shipway/x", "ab" * 32, {"ca.pem": b"", "lock": b"1"}, {"src": source})


def test_an_archive_says_nothing_of_who_wrote_it(recipe: Recipe) -> None:
    first, second = io.BytesIO(), io.BytesIO()
    archive(recipe, {"ca.pem": b"authority"}, first)
    (recipe.trees["src"] / "bentos" / "server.py").touch()
    archive(recipe, {"ca.pem": b"authority"}, second)
    assert first.getvalue() == second.getvalue()
    with tarfile.open(fileobj=io.BytesIO(first.getvalue())) as tar:
        entries = {entry.name: entry for entry in tar}
        assert tar.extractfile("ca.pem").read() == b"authority"
        assert tar.extractfile("Dockerfile").read().decode() == recipe.dockerfile()
    assert set(entries) == {
        "Dockerfile", "ca.pem", "lock", "src", "src/bentos", "src/bentos/server.py", "src/model", "src/model/__pycache__",
        "src/model/__pycache__/its.pyc",
    }  # fmt: skip
    assert {(entry.uid, entry.gid, entry.mtime) for entry in entries.values()} == {(0, 0, 315_532_800)}
    assert {entry.mode for entry in entries.values() if entry.isfile()} == {0o644}
    assert {entry.mode for entry in entries.values() if entry.isdir()} == {0o755}


def test_a_folder_holds_the_same(recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    lay_out(recipe, "FROM y\n", out)
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert found == {"Dockerfile", "ca.pem", "lock", "src/bentos/server.py", "src/model/__pycache__/its.pyc"}
    assert (out / "Dockerfile").read_text() == "FROM y\n"
    assert {path.stat().st_mode & 0o777 for path in out.rglob("*") if path.is_file()} == {0o644}
