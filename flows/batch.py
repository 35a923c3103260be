"""batch-score: a file of rows in, a file or a folder of answers out, through the same runner as online."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow, get_run_logger

if TYPE_CHECKING:
    from bentos.serving.batch.score import BatchCounts
    from flows.release.line import Line


@flow(name="batch-score", flow_run_name="score with {model}", persist_result=False)
def batch_score(
    model: str,
    input: str,  # noqa: A002 - the parameter's name in the UI
    output: str,
    version: int | str | None = None,
    alias: str | None = None,
    rejects: str | None = None,
    chunk: int = 0,
    processes: int = 1,
    probabilities: bool = False,
) -> dict[str, float]:
    """Scores a Parquet or CSV file with a registered version, in a child process of the version's own environment.

    Rows that do not fit the signature, or that the model fails on, are set aside with the reason; nothing is dropped.

    Args:
        model: Name of the registered model.
        input: Parquet or CSV file to score.
        output: Where the input columns and the predictions go: a file if it ends in .parquet (and is replaced), a folder of
            parts if it has no suffix or a slash at its end (it must be new or empty).
        version: Version to score with; give this or alias. With neither, the champion scores.
        alias: Alias of the version to score with.
        rejects: Where the rows that are set aside go, named in the same way; empty: beside the output, as
            <output>.rejects.parquet or <output>.rejects/.
        chunk: Rows predicted at a time; 0: as many as 64 MB of the file hold, from 1,000 to 65,536. Memory is a few chunks
            a process, however long the file is.
        processes: Processes that share a Parquet file, each with the model in memory; 0: one a core. CSV is always
            read by one. The answers are the same, whatever the number.
        probabilities: Class probabilities beside the prediction, as probability_<class>; they cost a classifier
            a second pass over the rows.
    """
    from dataclasses import asdict

    from bentos.serving.batch.sink import check_apart, rejects_of
    from flows.release.line import open_line
    from flows.telling.prefect_teller import as_task
    from flows.telling.tell import key

    line = open_line()
    if version is None and alias is None:
        alias = "champion"
    counts: dict[str, float] = {}
    aside = rejects or rejects_of(output)
    check_apart(input, output, aside)

    def score() -> str:
        found = line.registry.resolve(model, version=None if version is None else str(version), alias=alias)
        options = {"chunk": chunk, "processes": processes, "probabilities": probabilities}
        scored = _score(line, model, found.version, (input, output, aside), options)
        counts.update(asdict(scored))
        return f"{found.name}: {counts}"

    get_run_logger().info(as_task("score", score))
    from prefect.artifacts import create_table_artifact

    create_table_artifact(
        [counts], key=key(model, "batch"), description=f"{input} scored into {output}; set aside: {aside}"
    )
    return counts


def _score(line: Line, model: str, version: str, files: tuple[str, str, str], options: dict[str, Any]) -> BatchCounts:
    """Vets and prepares the version, then scores: *files* are input, output and rejects, *options* those of run_batch."""
    from bentos.sealing.child import run_batch
    from flows.release import prepare
    from flows.release.line import policy_of

    rules, _ = policy_of(line.settings, model, None)
    prepare.vet_version(line, model, version, rules)
    prepared = prepare.prepare(line, model, version, rules)
    python = prepare.bulk_python(line, prepared, rules)
    source, output, rejects = files
    return run_batch(python, prepared.code, prepared.bento.path, Path(source), output, rejects, **options)
