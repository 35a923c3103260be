"""A process of a batch: loads the model once, then scores the spans it is asked for, a line of JSON each."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from bentos.serving.batch.score import score_rows
from bentos.serving.batch.sink import Sink
from bentos.serving.batch.source import ParquetSource
from bentos.serving.batch.workers import Scored, Span, Work
from bentos.serving.errors import ShipwayError
from bentos.serving.model.runner import ModelRunner


def work(asked: TextIO, answer: TextIO) -> None:
    """Answer every Span of ``asked`` with a Scored, or with ``error`` and its ``kind``, after which it ends."""
    try:
        given = Work(**json.loads(asked.readline()))
        runner = ModelRunner.load(Path(given.folder), bulk=True)
        reader = ParquetSource(Path(given.source), given.chunk)
        for line in asked:
            scored = score_span(runner, reader, Span(**json.loads(line)), probabilities=given.probabilities)
            print(json.dumps(asdict(scored)), file=answer, flush=True)
    except ShipwayError as error:
        print(json.dumps({"error": str(error), "kind": type(error).__name__}), file=answer, flush=True)


def score_span(runner: ModelRunner, reader: ParquetSource, span: Span, *, probabilities: bool) -> Scored:
    """Score one span into its files; a file that would have no row is not written."""
    with Sink(Path(span.output), reader.metadata) as kept, Sink(Path(span.rejects), reader.metadata) as aside:
        chunks = reader.chunks(span.start, span.stop)
        rows, rejected = score_rows(runner, reader, chunks, kept, aside, probabilities=probabilities)
        for sink in (kept, aside):
            if sink.began:
                sink.finish(reader.schema.empty_table())
                sink.commit()
        return Scored(rows, rejected, kept.began, aside.began)
