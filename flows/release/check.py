"""The wire check: the deployed server's answers against in-process predictions of the same rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bentos.serving.errors import PermanentError
from monitoring.interface import Verdict

if TYPE_CHECKING:
    import pandas as pd

    from bentos.policy.release import ReleasePolicy
    from bentos.versions.reference import Reference
    from flows.release.line import Line
    from flows.release.prepare import Prepared
    from infra.targets.interface import Address
    from monitoring.evidence.check import CheckResult

PREDICT_SECONDS = 300.0
REPLAY_ROWS = 2_000  # a first version is judged by this much of its reference
REFERENCE_ROWS = 1_000  # rows of the reference whose predictions drift is measured against
CHUNK = 100  # rows a request, at most
IN_PROCESS = "in_process.parquet"


class CheckError(PermanentError):
    """The server refused rows of its own reference; the message has its status and body."""


def reference_of(line: Line, prepared: Prepared, policy: ReleasePolicy) -> Reference:
    """The reference data of a version; its ``path`` is None where the version has none."""
    from bentos.versions.reference import find_reference

    return find_reference(
        line.registry, prepared.version, prepared.artifacts, policy.reference, line.settings.root / "references"
    )


def check_version(
    line: Line,
    prepared: Prepared,
    address: Address,
    policy: ReleasePolicy,
    folder: Path,
    *,
    baseline: str | None,
    ahead: bool = False,
) -> Verdict:
    """Sends reference rows over the wire and compares the answers with a child process of the model's environment.

    A first version (*baseline* None) is judged by this alone, so that more of its reference is replayed. Rows, answers
    and results are left under *folder* as evidence; *ahead*: ``predict_ahead`` has left the child's answers there. Without
    a reference the verdict is INCONCLUSIVE and says why.
    """
    from monitoring.verdict import judge_first, judge_wire

    folder.mkdir(parents=True, exist_ok=True)
    reference = reference_of(line, prepared, policy)
    found: dict[str, CheckResult] = {}
    for name, rows in _windows(reference, prepared, policy, baseline).items():
        if not (ahead and (folder / name / IN_PROCESS).is_file()):
            predict_in_process(prepared, rows, folder / name)
        found[name] = compare_answers(prepared, address, rows, policy, folder / name)
    check = found.get("check")
    replay = found.get("replay", check) if baseline is None else None  # the sample may be the whole reference
    kept = {"check": asdict(check) if check else None, "replay": asdict(replay) if replay else None}
    (folder / "checks.json").write_text(json.dumps({**kept, "reference": reference.source, "note": reference.note}))
    if baseline is None:
        return judge_first(prepared.version.version, check, replay)
    return judge_wire(baseline, prepared.version.version, check)


def predict_ahead(line: Line, prepared: Prepared, policy: ReleasePolicy, folder: Path, *, baseline: str | None) -> None:
    """Leaves the child's answers that ``check_version`` compares with under *folder*; they need no server."""
    for name, rows in _windows(reference_of(line, prepared, policy), prepared, policy, baseline).items():
        predict_in_process(prepared, rows, folder / name)


def _windows(
    reference: Reference, prepared: Prepared, policy: ReleasePolicy, baseline: str | None
) -> dict[str, pd.DataFrame]:
    """The rows that are asked, by the name of their folder; none without a reference."""
    import pandas as pd

    if reference.path is None:
        return {}
    rows = model_inputs(pd.read_parquet(reference.path), prepared)
    windows = {"check": sample(rows, policy.check.rows)}
    if baseline is None and len(rows) > policy.check.rows:
        windows["replay"] = sample(rows, REPLAY_ROWS)
    return windows


def predict_in_process(prepared: Prepared, rows: pd.DataFrame, folder: Path) -> None:
    """The answers to *rows* by a child process of the model's environment, left under *folder* beside the rows."""
    from bentos.sealing.child import run_predict

    folder.mkdir(parents=True, exist_ok=True)
    source, output = folder / "rows.parquet", folder / IN_PROCESS
    rows.to_parquet(source, index=False)
    chunk = chunk_of(len(rows))
    run_predict(
        prepared.python, prepared.code, prepared.bento.path, source, output, chunk=chunk, timeout=PREDICT_SECONDS
    )


def compare_answers(
    prepared: Prepared, address: Address, rows: pd.DataFrame, policy: ReleasePolicy, folder: Path
) -> CheckResult:
    """The answers to *rows* of the server at *address* against those in process under *folder*, as many at a time."""
    from monitoring.evidence.check import compare

    answers = over_the_wire(address, rows, chunk_of(len(rows)), tensors=not _named(prepared))
    (folder / "wire.json").write_text(json.dumps(answers, default=str))
    return compare(answers, as_on_the_wire(folder / IN_PROCESS), policy.check.tolerance)


def chunk_of(rows: int) -> int:
    """How many of *rows* go into one request: parts of one size, so that none is so small that its answer has another form."""
    return -(-rows // max(1, -(-rows // CHUNK)))


def as_on_the_wire(answers: Path) -> list[object]:
    """The answers in a Parquet file, one a row, each value as MLflow's protocol writes it."""
    import pyarrow.parquet as pq

    from bentos.serving.wire.interface import parse_object
    from bentos.serving.wire.scoring.invocations import encode

    found: list[object] = parse_object(encode(pq.read_table(answers).to_pylist()).data, "answers")["predictions"]
    return found


def reference_answers(
    reference: Path, arms: Mapping[str, Prepared], folder: Path, output: str | None
) -> pd.DataFrame | None:
    """What each of *arms* (baseline, candidate) answers in process to a sample of the reference: one column an arm.

    *output* is ``Metrics.output``; None where a version has no such output. Kept below *folder*, so that it is computed once.
    """
    import pandas as pd

    from bentos.sealing.child import run_predict
    from monitoring.evidence.check import only
    from monitoring.evidence.values import compared
    from monitoring.log.bodies import scalars

    answers = {}
    for arm, prepared in arms.items():
        kept = folder / f"reference-{arm}.parquet"
        if not kept.exists():
            folder.mkdir(parents=True, exist_ok=True)
            rows = folder / f"reference-{arm}-rows.parquet"
            sampled = sample(model_inputs(pd.read_parquet(reference), prepared), REFERENCE_ROWS)
            sampled.to_parquet(rows, index=False)
            run_predict(prepared.python, prepared.code, prepared.bento.path, rows, kept, timeout=PREDICT_SECONDS)
        found = only(as_on_the_wire(kept))
        try:
            answers[arm] = pd.Series(scalars([compared(answer, output) for answer in found]))
        except KeyError:
            return None
    return pd.DataFrame(answers)


def model_inputs(rows: pd.DataFrame, prepared: Prepared) -> pd.DataFrame:
    """The reference without what is no input: its target, its own predictions."""
    from bentos.serving.inputs.signature import load_signature

    known = [item.name for item in load_signature(prepared.artifacts).inputs if item.name]
    wanted = [name for name in rows.columns if name in known]
    return rows[wanted] if wanted else rows


def _named(prepared: Prepared) -> bool:
    from bentos.serving.inputs.signature import Column, load_signature

    return isinstance(load_signature(prepared.artifacts).inputs[0], Column)


def sample(frame: pd.DataFrame, rows: int) -> pd.DataFrame:
    """At most *rows* rows, evenly spread over the frame: the same ones every time."""
    if len(frame) <= rows:
        return frame.reset_index(drop=True)
    step = len(frame) / rows
    return frame.iloc[[int(index * step) for index in range(rows)]].reset_index(drop=True)


def over_the_wire(address: Address, rows: pd.DataFrame, chunk: int, *, tensors: bool) -> list[object]:
    """The server's answers to *rows*, *chunk* of them a request. Raises CheckError with what the server said otherwise."""
    import httpx

    from bentos.serving.wire.scoring.invocations import answer_rows

    transport = httpx.HTTPTransport(uds=address.uds) if address.uds else None
    answers: list[object] = []
    with httpx.Client(
        transport=transport, base_url="http://check" if address.uds else str(address), timeout=60
    ) as http:
        for start in range(0, len(rows), chunk):
            part = rows.iloc[start : start + chunk]
            body = encode(part, tensors=tensors)
            response = http.post("/invocations", content=body, headers={"content-type": "application/json"})
            if response.status_code != 200:
                raise CheckError(
                    f"rows {start}..{start + len(part) - 1} of the reference: expected 200, found {response.status_code}:"
                    f" {response.text[:500]}. The version cannot answer its own training data."
                )
            answers.extend(answer_rows(response.json()["predictions"]))
    return answers


def encode(rows: pd.DataFrame, *, tensors: bool) -> bytes:
    """Rows as MLflow's scoring protocol takes them: ``dataframe_split``, or ``inputs`` for a model over tensors."""
    import orjson

    values = {str(name): [_plain(value) for value in rows[name]] for name in rows.columns}
    if tensors:
        inputs = next(iter(values.values())) if len(values) == 1 else values
        return orjson.dumps({"inputs": inputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    data = [list(row) for row in zip(*values.values(), strict=True)]
    split = {"columns": list(values), "data": data}
    return orjson.dumps({"dataframe_split": split}, option=orjson.OPT_SERIALIZE_NUMPY)


def _plain(value: object) -> object:
    """A cell as JSON has it: null for what is missing, ISO text for times, base64 for bytes, nested lists for arrays."""
    import base64

    import numpy as np
    import pandas as pd

    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if value is None or value is pd.NaT or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, (pd.Timestamp, np.datetime64)):
        return pd.Timestamp(value).isoformat()
    return value.item() if isinstance(value, np.generic) else value
