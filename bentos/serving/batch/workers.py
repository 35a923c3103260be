"""Batch over processes: each has the model and scores spans of the file into parts, which are appended in order."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from bentos.serving.batch.sink import Sink
from bentos.serving.batch.source import BatchError
from bentos.serving.errors import ShipwayError
from bentos.serving.inputs.signature import InputError, SignatureError
from bentos.serving.model.interface import LoadError
from bentos.serving.threads import ONE_THREAD

SPANS = 4  # a process, so that one that is slow holds up a quarter of its share at most
SPAN_CHUNKS = 16  # at most, so that parts stay small on disk
ERRORS = {kind.__name__: kind for kind in (BatchError, InputError, LoadError, SignatureError)}


@dataclass(frozen=True)
class Work:
    """What all processes of a batch are told: the model's folder, the Parquet file, rows predicted at a time."""

    folder: str
    source: str
    chunk: int
    probabilities: bool


@dataclass(frozen=True)
class Span:
    """Rows from ``start`` up to ``stop``, and the files that their answers and rejects go to."""

    start: int
    stop: int
    output: str
    rejects: str


@dataclass(frozen=True)
class Scored:
    """What a span came to, and which of its files there are."""

    rows: int
    rejected: int
    kept: bool
    aside: bool


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def spans(rows: int, chunk: int, processes: int) -> list[tuple[int, int]]:
    """(start, stop) of the pieces that ``processes`` share, whole chunks but for the last; one piece for one process."""
    if processes == 1:
        return [(0, rows)]
    chunks = max(1, min(SPAN_CHUNKS, -(-rows // (chunk * processes * SPANS))))
    step = chunks * chunk
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


def score_spans(
    work: Work, parts: Sequence[tuple[int, int]], processes: int, kept: Sink, aside: Sink
) -> tuple[int, int]:
    """Score ``parts`` in ``processes`` and append what they write to both sinks, in order, while they go on; how many rows,
    and how many were set aside. Raises what a process raised, BatchError for one that died.
    """
    rows = rejected = 0
    with ExitStack() as stack:
        where = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".shipway-parts-", dir=kept.path.parent)))
        pool = stack.enter_context(ThreadPoolExecutor(processes))
        idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for _ in range(min(processes, len(parts))):
            worker = Worker(work)
            stack.callback(worker.end)
            idle.put(worker)

        def score(span: Span) -> Scored:
            worker = idle.get()
            try:
                return worker.score(span)
            finally:
                idle.put(worker)

        asked = [
            Span(start, stop, str(where / f"{start}.parquet"), str(where / f"{start}.rejects.parquet"))
            for start, stop in parts
        ]
        coming = [(span, pool.submit(score, span)) for span in asked]
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        for span, future in coming:
            scored = future.result()
            rows += scored.rows
            rejected += scored.rejected
            for there, path, sink in ((scored.kept, span.output, kept), (scored.aside, span.rejects, aside)):
                if there:
                    sink.append(Path(path))
    return rows, rejected


class Worker:
    """One process of a batch, ``python -m bentos.serving.child work``; it ends when we do, at the latest after its span."""

    def __init__(self, work: Work) -> None:
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH")]))
        env = {**os.environ, "PYTHONPATH": path, **ONE_THREAD}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bentos.serving.child", "work"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
            text=True,
        )
        self._tell(json.dumps(asdict(work)))

    def score(self, span: Span) -> Scored:
        """Have ``span`` scored. Raises what the process says, BatchError if it died."""
        assert self._process.stdout is not None
        self._tell(json.dumps(asdict(span)))
        said = self._process.stdout.readline()
        if not said:
            code = self._process.wait()
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit {code}"
            raise BatchError(
                f"process {self._process.pid} of the batch {how} at rows {span.start} to {span.stop}: nothing was "
                "written. Score again, with fewer processes or a smaller chunk if memory ran out"
            )
        found = json.loads(said)
        if (error := found.get("error")) is not None:
            kind: type[ShipwayError] = ERRORS.get(found["kind"], BatchError)
            raise kind(error)
        return Scored(**found)

    def end(self) -> None:
        """Kill the process, whatever it does: its parts go with the folder they are in."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # what it was told last it did not read
                    pipe.close()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: what it said before, or how it died, is read in ``score``
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
