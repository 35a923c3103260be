"""Interpreters that wait: real ones, asked, ended, and dead."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bentos.children import ahead
from bentos.children.run import ChildError, run_module

PYTHON = Path(sys.executable)
SAYS = """
import json, os, sys
print(json.dumps([sys.argv[1:], sys.stdin.read(), os.getcwd(), sorted(set(sys.modules) & {"colorsys", "wave"}), os.environ.get("MORE"), __name__, os.getpid()]))
if sys.argv[1:] == ["fails"]:
    sys.exit("as it was asked to")
"""


@pytest.fixture
def code(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "says.py").write_text(SAYS)
    yield tmp_path
    ahead.end()


def test_a_child_that_was_started_ahead_runs_as_one_that_was_not(code: Path) -> None:
    def ask() -> list[object]:
        import json

        found = run_module(PYTHON, code, ["says", "a", "b c"], 30, "it", given="on stdin", environment={"MORE": "more"})
        answer: list[object] = json.loads(found)
        assert not Path(str(answer[2])).exists(), "a working folder of its own, gone"
        return answer

    late = ask()
    ahead.start(PYTHON, "says", ["colorsys", "wave", "no_such_library"])
    (waiting,) = ahead._waiting.values()
    early = ask()
    assert early[-1] == waiting.pid and late[-1] != waiting.pid
    assert (early[:2], early[4:6]) == (late[:2], late[4:6]) == ([["a", "b c"], "on stdin"], ["more", "__main__"])
    assert (early[3], late[3]) == (["colorsys", "wave"], [])
    assert ask()[-1] != waiting.pid, "one run each"


def test_what_lies_in_the_folder_it_stands_in_is_not_imported(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code / "here").mkdir()
    for name in ("json", "colorsys"):
        (code / "here" / f"{name}.py").write_text("raise SystemExit('taken from the working folder')")
    monkeypatch.chdir(code / "here")
    ahead.start(PYTHON, "says", ["colorsys"])
    assert "colorsys" in run_module(PYTHON, code, ["says"], 30, "it")


def test_its_failure_is_told_as_ever(code: Path) -> None:
    ahead.start(PYTHON, "says", [])
    with pytest.raises(ChildError, match=r"it failed \(exit 1\): as it was asked to"):
        run_module(PYTHON, code, ["says", "fails"], 30, "it")


def test_one_that_died_is_replaced_and_one_that_is_not_asked_is_ended(code: Path) -> None:
    ahead.start(PYTHON, "says", [])
    (waiting,) = ahead._waiting.values()
    os.kill(waiting.pid, signal.SIGKILL)
    waiting.wait()
    assert "on stdin" in run_module(PYTHON, code, ["says"], 30, "it", given="on stdin")
    ahead.start(PYTHON, "says", [])
    (waiting,) = ahead._waiting.values()
    ahead.end()
    assert waiting.poll() == -signal.SIGKILL
    assert not ahead._waiting


def test_it_ends_with_whoever_started_it(code: Path) -> None:
    import subprocess

    program = f"from pathlib import Path; from bentos.children import ahead; ahead.start(Path({sys.executable!r}), 'says', []); print(next(iter(ahead._waiting.values())).pid, flush=True); import time; time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline, "it waits for nobody"
        time.sleep(0.05)
