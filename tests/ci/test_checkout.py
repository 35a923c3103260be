"""What a checkout is compared with: real repositories, cloned, tagged, shallow, without git at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.ci.conftest import Git

from checkout import Since, since


@pytest.fixture
def made(git: Git, tmp_path: Path) -> Path:
    """A repository with three commits, each of which writes a file of its own: one, two, three."""
    folder = tmp_path / "made"
    for number, name in enumerate(("one", "two", "three"), start=1):
        (folder / name).write_text(name)
        git("add", name)
        git("commit", "--quiet", "-m", name, day=number)
    return folder


@pytest.fixture
def clone(made: Path, git: Git, tmp_path: Path) -> Path:
    """A fresh clone of it: origin/main is HEAD."""
    git("clone", "--quiet", f"file://{made}", str(tmp_path / "clone"))
    return tmp_path / "clone"


def test_a_fresh_clone_of_main_has_no_base(clone: Path) -> None:
    assert since(clone) == Since(None, "neither origin/main nor a tag is an ancestor other than HEAD", commits=3)


def test_a_branch_is_compared_with_main(clone: Path, git: Git) -> None:
    (clone / "a name with ü").write_text("new")
    git("rm", "--quiet", "two", at=clone)
    git("mv", "three", "moved", at=clone)
    git("add", ".", at=clone)
    git("commit", "--quiet", "-m", "work", at=clone)
    (clone / "one").write_text("not committed yet")
    expected = ("a name with ü", "moved", "one", "three", "two")
    assert since(clone) == Since("origin/main", "", expected, commits=4)


def test_main_that_is_no_ancestor_is_no_base(clone: Path, made: Path, git: Git) -> None:
    git("commit", "--quiet", "--allow-empty", "-m", "theirs", at=made)
    git("commit", "--quiet", "--allow-empty", "-m", "ours", at=clone)
    git("fetch", "--quiet", at=clone)
    assert since(clone).base is None
    git("tag", "v1", "HEAD~3", at=clone)
    assert since(clone) == Since("v1", "", ("three", "two"), commits=4)


def test_the_newest_tag_that_is_an_ancestor_stands_in_for_main(made: Path, git: Git) -> None:
    git("tag", "-a", "-m", "newer", "a-newer", "HEAD~1", day=5)
    git("tag", "-a", "-m", "older", "z-older", "HEAD~2", day=4)
    git("tag", "here", day=6)
    git("checkout", "--quiet", "-b", "aside", "HEAD~1")
    git("commit", "--quiet", "--allow-empty", "-m", "aside", day=7)
    git("tag", "aside-tag", day=8)
    git("checkout", "--quiet", "main")
    assert since(made) == Since("a-newer", "", ("three",), commits=3)


def test_a_shallow_clone_has_no_base(made: Path, git: Git, tmp_path: Path) -> None:
    git("tag", "v1", "HEAD~1")
    git("clone", "--quiet", "--depth", "2", f"file://{made}", str(tmp_path / "shallow"))
    assert since(tmp_path / "shallow") == Since(None, "the clone is shallow", commits=2)


def test_what_is_no_repository_has_no_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert since(tmp_path).base is None
    assert "not a git repository" in since(tmp_path).why


def test_a_repository_without_a_commit_has_no_base(git: Git, tmp_path: Path) -> None:
    assert since(tmp_path / "made").base is None
    assert since(tmp_path / "made").why.startswith("git cannot say: ")


def test_without_git_there_is_no_base(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(made))
    assert since(made) == Since(None, "git is not installed")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_checkout_of_another_user_is_read(clone: Path, git: Git, monkeypatch: pytest.MonkeyPatch) -> None:
    git("tag", "v1", "HEAD~1", at=clone)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    for path in (clone, *clone.rglob("*")):
        shutil.chown(path, user=65534)
    assert since(clone).base == "v1"
