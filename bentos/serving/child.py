"""Prediction in a process of the model's own environment: ``python -m bentos.serving.child predict|batch JSON``.

It is started by bentos/sealing/child.py; JSON is an object of the command's arguments. A batch over several processes starts
``… work`` itself.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bentos.serving.errors import ShipwayError

if TYPE_CHECKING:
    from typing import TextIO


def main(arguments: Sequence[str]) -> int:
    """The child: 0 done, 2 refused with one line on stderr that says why. What it prints is for the caller alone: the
    model's own prints go to stderr.
    """
    command, *values = arguments
    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(2, 1)
        try:
            if command == "work":
                _work(answer)
            elif command == "batch":
                answer.write(_batch(**json.loads(values[0])) + "\n")
            else:
                _predict(**json.loads(values[0]))
        except ShipwayError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 2
    return 0


def _predict(folder: str, source: str, output: str, *, chunk: int, probabilities: bool) -> None:
    import pyarrow.parquet as pq

    from bentos.serving.batch.tables import answers, from_arrow, joined
    from bentos.serving.model.runner import ModelRunner

    runner, target, rows = ModelRunner.load(Path(folder)), Path(output), pq.read_table(source)
    parts = [rows.slice(start, chunk) for start in range(0, rows.num_rows, chunk)] if chunk else [rows]
    asked = (from_arrow(part, runner.plan) for part in parts)
    made = answers(joined([runner.predict(values, probabilities=probabilities) for values in asked]))
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(made, aside)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def _batch(folder: str, source: str, **options: Any) -> str:
    from dataclasses import asdict

    from bentos.serving.batch.score import score_file

    return json.dumps(asdict(score_file(Path(folder), Path(source), **options)))


def _work(answer: TextIO) -> None:
    from bentos.serving.batch.worker import work

    with os.fdopen(os.dup(0)) as asked, Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
        work(asked, answer)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
