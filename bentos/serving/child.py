"""Prediction in a child process of the model's own environment, so that no worker ever loads a model.

``python -m bentos.serving.child predict|batch …`` is the child; ``run_predict`` and ``run_batch`` start it. A batch over several
processes starts ``… work`` itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bentos.serving.errors import PermanentError, ShipwayError
from bentos.serving.threads import THREADS

if TYPE_CHECKING:
    import argparse
    from typing import TextIO

    from bentos.serving.batch.score import BatchCounts

KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH")


class ChildError(PermanentError):
    """The child of a model's environment failed; the message ends with the end of what it wrote to stderr."""


def run_predict(python: Path, code: Path, folder: Path, source: Path, output: Path, timeout: float = 600) -> None:
    """Predict the Parquet file ``source`` into ``output``, in ``python``'s environment.

    ``code`` is the parent of the ``bentos`` package to run (``<bento>/src`` of a sealed bento), ``folder`` the model's
    artifact folder or the sealed bento, ``timeout`` in seconds. The output has no input columns: ``prediction`` or the
    named outputs, and ``probability_<class>``. Raises ChildError.
    """
    _run(python, code, ["predict", *_paths(folder=folder, input=source, output=output)], timeout)


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

    paths = _paths(folder=folder, input=source, output=output, rejects=rejects)
    options = ["--chunk", str(chunk), "--processes", str(processes), *(["--probabilities"] if probabilities else [])]
    printed = _run(python, code, ["batch", *paths, *options], timeout)
    return BatchCounts(**json.loads(printed))


def child_env(code: Path) -> dict[str, str]:
    """The environment of a child: nothing of the worker's but where programs and homes lie; one thread a library.

    No bytecode is written, so that the sealed bento it runs from stays as its digest says.
    """
    env = {name: os.environ[name] for name in KEPT if name in os.environ}
    env |= {name: os.environ.get(name, "1") for name in THREADS}
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**env, **quiet, "PYTHONPATH": str(code.resolve()), "PYTHONUNBUFFERED": "1"}


def main(arguments: Sequence[str]) -> int:
    """The child: 0 done, 2 refused with one line on stderr that says why. What it prints is for the caller alone: the
    model's own prints go to stderr.
    """
    import argparse

    parser = argparse.ArgumentParser(prog="python -m bentos.serving.child")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (commands.add_parser("predict"), batch := commands.add_parser("batch")):
        for option in ("--folder", "--input"):
            command.add_argument(option, type=Path, required=True)
        command.add_argument("--output", required=True)
    batch.add_argument("--rejects", required=True)
    batch.add_argument("--chunk", type=int, default=0)
    batch.add_argument("--processes", type=int, default=1)
    batch.add_argument("--probabilities", action="store_true")
    commands.add_parser("work")
    given = parser.parse_args(arguments)
    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(2, 1)
        try:
            if given.command == "work":
                _work(answer)
            elif given.command == "batch":
                answer.write(_batch(given) + "\n")
            else:
                _predict(given.folder, given.input, Path(given.output))
        except ShipwayError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 2
    return 0


def _predict(folder: Path, source: Path, output: Path) -> None:
    import pyarrow.parquet as pq

    from bentos.serving.batch.tables import answers, from_arrow
    from bentos.serving.model.runner import ModelRunner

    runner = ModelRunner.load(folder)
    prediction = runner.predict(from_arrow(pq.read_table(source), runner.plan), probabilities=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(answers(prediction), aside)
        aside.replace(output)
    finally:
        aside.unlink(missing_ok=True)


def _batch(given: argparse.Namespace) -> str:
    from dataclasses import asdict

    from bentos.serving.batch.score import score_file

    counts = score_file(
        given.folder,
        given.input,
        given.output,
        given.rejects,
        chunk=given.chunk,
        processes=given.processes,
        probabilities=given.probabilities,
    )
    return json.dumps(asdict(counts))


def _work(answer: TextIO) -> None:
    from bentos.serving.batch.worker import work

    with os.fdopen(os.dup(0)) as asked, Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
        work(asked, answer)


def _paths(**paths: Path | str) -> list[str]:
    """Options of absolute paths; a slash at the end, which says that a folder is wanted, stays."""
    slash = {name: "/" if str(path).endswith("/") else "" for name, path in paths.items()}
    return [text for name, path in paths.items() for text in (f"--{name}", f"{Path(path).resolve()}{slash[name]}")]


def _run(python: Path, code: Path, arguments: list[str], timeout: float) -> str:
    """Run the child to its end in an empty working folder; its stdout. The whole process group dies with a timeout."""
    command = [str(python), "-m", "bentos.serving.child", *arguments]
    what = f"bentos.serving.child {arguments[0]} of {arguments[2]} with {python}"
    with tempfile.TemporaryDirectory(prefix="shipway-child-") as where:
        try:
            process = subprocess.Popen(
                command,
                cwd=where,
                env=child_env(code),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            raise ChildError(f"{what} could not be started: {error}. Make the model's environment again") from error
        try:
            printed, said = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise ChildError(
                f"{what} took longer than {timeout:g} s and was ended: allow more time or send less"
            ) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
    if process.returncode:
        raise ChildError(f"{what} failed ({_ended(process.returncode)}): {said.strip()[-2000:] or 'it said nothing'}")
    return printed


def _ended(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit {code}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
