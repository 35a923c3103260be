"""The table of long tests as pytest and make read it, and that it speaks of what there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from groups import TABLE, read

ROOT = Path(__file__).resolve().parents[2]
NAMES = [group.name for group in read().groups]
KILLS = {
    "tests/e2e/test_kill.py::test_killed_after_every_effect_in_turn",
    "tests/e2e/test_kill.py::test_everything_killed_in_shadow_comes_back_with_up",
}
WRITTEN = """
import pytest

@pytest.mark.long({argument})
def test_long(): ...

def test_short(): ...
"""


def pytest_says(*arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pytest_timeout", *arguments]
    quick = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # plugins of other tests' cost seconds at each start
    done = subprocess.run(command, cwd=ROOT, env=quick, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def collected(said: str) -> set[str]:
    return {line for line in said.splitlines() if line.startswith("tests/") and "::" in line}


def written(folder: Path, argument: str) -> tuple[str, ...]:
    """A file of tests beside ours, with our conftest: what pytest is given for it."""
    file = folder / "test_written.py"
    file.write_text(WRITTEN.format(argument=argument))
    return ("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), "-p", "tests.conftest", "-vv", str(file))


def test_a_group_is_all_of_its_tests_and_no_other() -> None:
    assert collected(pytest_says("--collect-only", "--group", "kill")) == KILLS


def test_without_a_group_no_long_test_runs(tmp_path: Path) -> None:
    assert not collected(pytest_says("--collect-only", "tests/e2e/test_kill.py", code=5))
    said = pytest_says(*written(tmp_path, '"kill"'))
    assert "test_short PASSED" in said and "1 passed, 1 deselected" in said


def test_a_marker_chooses_its_group(tmp_path: Path) -> None:
    said = pytest_says(*written(tmp_path, '"kill"'), "--group", "kill")
    assert "test_long PASSED" in said and "1 passed, 1 deselected" in said


def test_a_group_without_tests_does_not_fail(tmp_path: Path) -> None:
    assert "2 deselected" in pytest_says(*written(tmp_path, '"kill"'), "--group", "demo")
    pytest_says(*written(tmp_path, '"kill"'), "--group", "kill", "-k", "mistyped", code=5)


def test_a_marker_that_names_no_group_is_an_error_with_the_known_names(tmp_path: Path) -> None:
    said = pytest_says(*written(tmp_path, '"kil")\ndef test_none(): ...\n@pytest.mark.long('), code=2)
    assert "test_written.py::test_none: @pytest.mark.long('kil')" in said
    assert "test_written.py::test_long: @pytest.mark.long('')" in said
    assert f"expected is one group of tests/groups.toml: {', '.join(NAMES)}" in said


def test_an_unknown_group_is_refused_with_the_known_names() -> None:
    said = pytest_says("--group", "kil", code=4)
    assert "invalid choice: 'kil'" in said and all(name in said for name in NAMES)


def test_the_groups_are_listed_for_make() -> None:
    said = subprocess.run([sys.executable, ROOT / ".ci" / "groups.py"], capture_output=True, text=True, check=True)
    assert said.stdout.split() == NAMES


def test_every_glob_matches_something() -> None:
    paths = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    globs = {glob for group in read().groups for glob in group.code} | set(read().everywhere)
    assert {glob for glob in globs if not any(fnmatchcase(path, glob) for path in paths)} == set()


def test_a_file_of_long_tests_is_code_of_its_group() -> None:
    code = {group.name: group.code for group in read().groups}
    for file in (ROOT / "tests").rglob("test_*.py"):
        path = file.relative_to(ROOT).as_posix()
        for name in re.findall(
            r"^[^\"']*pytest\.mark\.long\(\"(\w+)\"\)", file.read_text(encoding="utf-8"), re.MULTILINE
        ):
            assert any(fnmatchcase(path, glob) for glob in code[name]), f"{path}: group {name} does not name it as code"


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        (("minutes = 8", "minute = 8"), r"group kill: .*'minute'"),
        (("minutes = 8", "minutes = 0"), "group kill: expected minutes above 0"),
        (('needs = ["docker"]', 'needs = ["dokcer"]'), r"group images needs \['dokcer'\]; known are \['docker'\]"),
    ],
)
def test_a_table_with_a_slip_is_refused(tmp_path: Path, changed: tuple[str, str], error: str) -> None:
    path = tmp_path / "groups.toml"
    path.write_text(TABLE.read_text(encoding="utf-8").replace(*changed, 1))
    with pytest.raises(ValueError, match=error):
        read(path)
