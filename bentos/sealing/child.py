"""Children: processes of a model's own environment that load it, so that no worker ever does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bentos.children.run import run_module

if TYPE_CHECKING:
    from bentos.serving.batch.score import BatchCounts


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


def _run(python: Path, code: Path, command: str, values: Mapping[str, object], timeout: float) -> str:
    what = f"bentos.serving.child {command} of {values['folder']} with {python}"
    return run_module(python, code, ["bentos.serving.child", command, json.dumps(values)], timeout, what)


def _absolute(path: Path | str) -> str:
    """A slash at the end, which says that a folder is wanted, stays."""
    return f"{Path(path).resolve()}{'/' if str(path).endswith('/') else ''}"
