"""A build from end to end with parts that say what was asked of them: order, times, budgets, exit code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ci.conftest import Git

from reference import QUIET_SECONDS, factor, seconds

ROOT = Path(__file__).resolve().parents[2]
GROUPS = """
everywhere = []
[parts]
install = 2
lint = 0.0001
base-image = 60
test = 60
[groups.kill]
proves = "kills"
minutes = 60
code = ["flows/*"]
[groups.images]
proves = "images"
minutes = 30
needs = ["docker"]
code = ["infra/*"]
"""
MAKEFILE = """
lint base-image test-long:
\t@echo "MADE $@ $(GROUP)"; sleep 0.1; ! read line
test:
\t@echo "MADE test"; exit 3
"""


@pytest.fixture
def project(git: Git, tmp_path: Path) -> Path:
    """A checkout with CI's scripts, a small table, and a Makefile whose tests fail."""
    folder = tmp_path / "made"
    shutil.copytree(ROOT / ".ci", folder / ".ci", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests").mkdir()
    (folder / "tests" / "groups.toml").write_text(GROUPS)
    (folder / "Makefile").write_text(MAKEFILE)
    git("add", ".")
    git("commit", "--quiet", "-m", "all")
    return folder


def build(project: Path, *options: str, code: int) -> list[str]:
    """What a build says, on a machine that is half as fast as a quiet one."""
    command = [sys.executable, project / ".ci" / "build.py", "--installed", "7", "--factor", "2", *options]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, input="x\n")
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout.splitlines()


def made(said: list[str]) -> list[str]:
    return [line.removeprefix("MADE ").strip() for line in said if line.startswith("MADE ")]


def test_a_failed_part_does_not_stop_the_later_ones_and_the_table_has_them_all(project: Path) -> None:
    said = build(project, "--minutes", "180", code=1)
    assert made(said) == ["base-image", "lint", "test", "test-long images", "test-long kill"]
    table = said[said.index("", len(said) - 8) + 1 :]
    assert [line.split()[0] for line in table] == [
        "install",
        "base-image",
        "lint",
        "test",
        "images",
        "kill",
        "together",
    ]
    lines = dict(zip([line.split()[0] for line in table], table, strict=True))
    assert lines["install"].split() == ["install", "7", "s", "of", "2", "min", "x", "2.00", "=", "240", "s", "ok"]
    assert lines["lint"].endswith("ok, OVER BUDGET")
    assert lines["test"].endswith("FAILED (2)")  # make's own code
    assert lines["kill"].endswith("ok")
    assert f"■ {lines['kill']}" in said, "and each was said when it ended"


def test_the_base_image_is_made_only_for_a_group_that_needs_it(project: Path) -> None:
    assert made(build(project, "--minutes", "180", "--without", "docker", code=1)) == [
        "lint",
        "test",
        "test-long kill",
    ]


def test_a_dry_run_says_what_would_run_and_runs_nothing(project: Path) -> None:
    said = build(project, "--minutes", "0", "--dry-run", code=0)
    assert not made(said)
    assert [line for line in said if line.startswith("would run")] == ["would run: make lint", "would run: make test"]
    assert [line.split()[:3] for line in said if "left out" in line] == [
        ["left", "out", "images"],
        ["left", "out", "kill"],
    ]


def test_a_part_that_passes_is_a_build_that_passes(project: Path) -> None:
    (project / "Makefile").write_text(MAKEFILE.replace("exit 3", "true"))
    assert made(build(project, "--minutes", "0", code=0)) == ["lint", "test"]


def test_the_machine_is_measured_by_real_work_and_budgets_are_never_less_than_stated() -> None:
    assert factor(seconds()) >= 1
    assert (factor(QUIET_SECONDS / 2), factor(QUIET_SECONDS), factor(QUIET_SECONDS * 3)) == (1, 1, pytest.approx(3))


def test_the_run_stops_where_the_installation_fails(project: Path) -> None:
    (project / "bin").mkdir()
    (project / "bin" / "apt-get").write_text("#!/bin/sh\nexit 1\n")  # this machine stays as it is
    (project / "bin" / "apt-get").chmod(0o755)
    environment = {**os.environ, "PATH": f"{project / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run([project / ".ci" / "run"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "MADE" not in done.stdout, "the Makefile has no .venv/.dev"
