"""A repository of git's own making for the tests of CI's choice."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path) -> Git:
    """Runs git in an empty repository at ``tmp_path / "made"``, on the branch main, as somebody; what it said."""
    folder = tmp_path / "made"
    folder.mkdir()
    who = {
        f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in (("NAME", "a"), ("EMAIL", "b"))
    }
    plain = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}

    def run(*arguments: str, day: int = 1, at: Path = folder) -> str:
        times = {
            "GIT_AUTHOR_DATE": f"2026-01-{day:02} 00:00 +0000",
            "GIT_COMMITTER_DATE": f"2026-01-{day:02} 00:00 +0000",
        }
        environment = {**os.environ, **who, **plain, **times}
        done = subprocess.run(["git", *arguments], cwd=at, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    run("init", "--quiet", "--initial-branch=main")
    return run
