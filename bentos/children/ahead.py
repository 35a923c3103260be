"""Interpreters that are started before there is work for them, and import libraries meanwhile: a child then begins at once.

None of what is imported ahead is ours or the model's: only the libraries of an environment that is there already. The
program, with its code, comes when it is asked for; one that is never asked for ends with this process.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from bentos.serving.threads import THREADS

WAITS = """
import sys
del sys.path[0]  # the folder that this process happens to stand in
import importlib, json, os
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception:
        pass
import runpy
line = sys.stdin.readline()
if not line:
    sys.exit(0)
asked = json.loads(line)
os.chdir(asked["where"])
os.environ.update(asked["environment"])
sys.path.insert(0, asked["code"])
sys.argv = [asked["module"], *asked["arguments"]]
runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)
"""
LIBRARIES: Mapping[str, Sequence[str]] = {
    "sklearn": ("sklearn", "pandas", "skops.io", "pyarrow.parquet"),
    "lightgbm": ("lightgbm", "pandas", "pyarrow.parquet"),
    "xgboost": ("xgboost", "pandas", "pyarrow.parquet"),
    "onnx": ("onnxruntime", "pandas", "pyarrow.parquet"),
    "python_function": ("mlflow.pyfunc", "pandas", "pyarrow.parquet"),
}
"""What a child of a model of each flavor imports, whatever the model is."""

KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
_waiting: dict[tuple[str, str], subprocess.Popen[str]] = {}


def bare() -> dict[str, str]:
    """The environment of a child: nothing of the worker's but where programs and homes lie; one thread a library.

    No bytecode is written, so that the sealed bento it runs from stays as its digest says.
    """
    env = {name: os.environ[name] for name in KEPT if name in os.environ}
    env |= {name: os.environ.get(name, "1") for name in THREADS}
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**env, **quiet, "PYTHONUNBUFFERED": "1"}


def start(python: Path, module: str, libraries: Sequence[str]) -> None:
    """Starts *python* for one run of *module*, unless one waits already; where it cannot be, the child starts as ever."""
    if (str(python), module) not in _waiting:
        with suppress(OSError):
            _waiting[str(python), module] = subprocess.Popen(
                [str(python), "-c", WAITS, *libraries], env=bare(), text=True, errors="replace",
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            )  # fmt: skip


def take(
    python: Path, command: Sequence[str], *, code: Path, where: str, environment: Mapping[str, str]
) -> subprocess.Popen[str] | None:
    """The process that waits for the module *command* begins with, and runs it now as ``python -m`` would; None where
    there is none. What is written to its stdin from then on is the module's."""
    process = _waiting.pop((str(python), command[0]), None)
    if process is None:
        return None
    assert process.stdin is not None
    asked = {"module": command[0], "arguments": list(command[1:]), "code": str(code), "where": where}
    try:
        process.stdin.write(json.dumps({**asked, "environment": dict(environment)}) + "\n")
        process.stdin.flush()
        return process
    except OSError:  # it is dead
        _kill(process)
        return None


def end() -> None:
    """Ends those that still wait."""
    while _waiting:
        _kill(_waiting.popitem()[1])


def _kill(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(OSError, ValueError):
        process.communicate()


atexit.register(end)
