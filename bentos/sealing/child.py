"""Children: processes of a model's own environment that load it, so that no worker ever does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bentos.serving.errors import PermanentError
from bentos.serving.threads import THREADS

if TYPE_CHECKING:
    from bentos.serving.batch.score import BatchCounts

KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH")


class ChildError(PermanentError):
    """The child of a model's environment failed; the message ends with the end of what it wrote to stderr."""


def run_predict(
    python: Path,
    code: Path,
    folder: Path,
    source: Path,
    output: Path,
    *,
    chunk: int = 0,
    probabilities: bool = False,
    timeout: float = 600,
) -> None:
    """Predict the Parquet file ``source`` into ``output``, in ``python``'s environment.

    ``code`` is the parent of the ``bentos`` package to run (``<bento>/src`` of a sealed bento), ``folder`` the model's
    artifact folder or the sealed bento, ``chunk`` how many rows the model is given at a time (0: all), ``timeout`` in
    seconds. The output has no input columns: ``prediction`` or the named outputs, and ``probability_<class>`` if asked for
    ``probabilities``. Raises ChildError.
    """
    paths = {"folder": folder, "source": source, "output": output}
    values = {name: _absolute(path) for name, path in paths.items()}
    _run(python, code, "predict", {**values, "chunk": chunk, "probabilities": probabilities}, timeout)


def run_batch(
    python: Path,
    code: Path,
    folder: Path,
    source: Path,
    output: Path | str,
    rejects: Path | str,
    *,
    chunk: int = 0,
    processes: int = 1,
    probabilities: bool = False,
    timeout: float = 3600,
) -> BatchCounts:
    """Score the Parquet or CSV file ``source`` as ``bentos.serving.batch.score.score_file`` does, in ``python``'s environment: that
    of the model itself where its profile says ``bulk``. Raises ChildError.
    """
    from bentos.serving.batch.score import BatchCounts

    paths = {"folder": folder, "source": source, "output": output, "rejects": rejects}
    options = {"chunk": chunk, "processes": processes, "probabilities": probabilities}
    values = {**{name: _absolute(path) for name, path in paths.items()}, **options}
    return BatchCounts(**json.loads(_run(python, code, "batch", values, timeout)))


def run_module(
    python: Path,
    code: Path,
    command: Sequence[str],
    timeout: float,
    what: str,
    *,
    late: str = "allow more time or send less",
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run ``python -m <command>`` to its end in an empty working folder; its stdout.

    ``code`` is the parent of the package that ``command``'s module lies in, ``environment`` is added to ``child_env``'s. After
    ``timeout`` seconds the whole process group is killed. Raises ChildError that begins with ``what``; ``late`` is what it
    advises after a time-out.
    """
    with tempfile.TemporaryDirectory(prefix="shipway-child-") as where:
        try:
            process = subprocess.Popen(
                [str(python), "-m", *command], cwd=where, env={**child_env(code), **(environment or {})},
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                text=True, errors="replace", start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise ChildError(f"{what} could not be started: {error}. Make the model's environment again") from error
        try:
            printed, said = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise ChildError(f"{what} took longer than {timeout:g} s and was ended: {late}") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
    if number := process.returncode:
        ended = f"killed by signal {-number}" if number < 0 else f"exit {number}"
        raise ChildError(f"{what} failed ({ended}): {said.strip()[-2000:] or 'it said nothing'}")
    return printed


def child_env(code: Path) -> dict[str, str]:
    """The environment of a child: nothing of the worker's but where programs and homes lie; one thread a library.

    No bytecode is written, so that the sealed bento it runs from stays as its digest says.
    """
    env = {name: os.environ[name] for name in KEPT if name in os.environ}
    env |= {name: os.environ.get(name, "1") for name in THREADS}
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**env, **quiet, "PYTHONPATH": str(code.resolve()), "PYTHONUNBUFFERED": "1"}


def _run(python: Path, code: Path, command: str, values: Mapping[str, object], timeout: float) -> str:
    what = f"bentos.serving.child {command} of {values['folder']} with {python}"
    return run_module(python, code, ["bentos.serving.child", command, json.dumps(values)], timeout, what)


def _absolute(path: Path | str) -> str:
    """A slash at the end, which says that a folder is wanted, stays."""
    return f"{Path(path).resolve()}{'/' if str(path).endswith('/') else ''}"
