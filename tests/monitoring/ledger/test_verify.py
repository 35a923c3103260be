"""`shipway verify`: holds for what happened, and names whatever was changed afterwards."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bentos.policy.release import ReleasePolicy
from monitoring.evidence.check import CheckResult
from monitoring.evidence.evidence import Evidence
from monitoring.ledger.ledger import Ledger, Release
from monitoring.ledger.memory import MemoryLedger
from monitoring.ledger.record import BrokenRecordError, canonical, seal, unseal
from monitoring.ledger.verify import save_checks, verify
from monitoring.log.tables import ANSWERS, REQUESTS
from monitoring.verdict import judge, judge_first, judge_wire

POLICY = ReleasePolicy()


@pytest.fixture
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    """The ledger in memory, or MLflow's where a test asks for it."""
    if getattr(request, "param", "memory") == "memory":
        return MemoryLedger(tmp_path)
    return Ledger(request.getfixturevalue("mlflow_server"), tmp_path)


on_both = pytest.mark.parametrize("ledger", ["mlflow", "memory"], indirect=True)


def evidence(model: str, candidate: str, n: int = 400) -> Evidence:
    """A shadow in which both arms answered alike, but for 5 % of the answers."""
    rng = np.random.default_rng(int(candidate))
    ids = [f"r{number}" for number in range(n)]
    base = rng.integers(0, 2, n)
    other = np.where(rng.random(n) < 0.05, 1 - base, base)
    columns: dict[str, Any] = {
        "seq": range(n), "request_id": ids, "time_ns": range(n), "stage": "shadow", "assigned": "baseline",
        "fallback": False, "mirrored": True, "rows": 1, "baseline_status": 200, "candidate_status": 200,
        "baseline_ms": rng.normal(5, 1, n), "candidate_ms": rng.normal(5, 1, n), "error": None,
    }  # fmt: skip
    answers: dict[str, Any] = {
        "seq": range(n), "request_id": ids, "row": 0, "baseline": base, "candidate": other,
        "baseline_score": np.nan, "candidate_score": np.nan, "label": None, "label_seq": None,
    }  # fmt: skip
    requests = pd.DataFrame(columns).astype(REQUESTS)
    inputs = pd.DataFrame({"seq": range(n), "request_id": ids, "assigned": "baseline", "x": rng.normal(size=n)})
    frame = pd.DataFrame(answers)[list(ANSWERS)].astype({"label_seq": "Int64"})
    return Evidence(model, "shadow", "1", candidate, 0, n, requests, frame, inputs)


def released(ledger: Ledger, model: str, candidate: str, folder: Path) -> Release:
    """A whole release: opened, judged on real evidence, closed."""
    baseline = None if candidate == "1" else "1"
    release = ledger.open(
        model,
        candidate,
        baseline=baseline,
        policy=POLICY,
        policy_source="test",
        digests={"model": "sha256:a"},
        owner={},
    )
    if baseline is None:
        results = CheckResult(5, 0, 0.0, 0, 1e-9), CheckResult(200, 1, float("inf"), 0, 1e-9)
        save_checks(folder / candidate, *results)
        ledger.keep(release, "evidence/replay", folder / candidate)
        return ledger.close(release, "PROMOTED", "equal", [judge_first(candidate, *results).to_json()])
    window = evidence(model, candidate)
    window.save(folder / candidate)
    ledger.keep(release, "evidence/shadow", folder / candidate)
    verdict = judge(window, POLICY)
    return ledger.close(release, "ROLLED_BACK", verdict.reason, [verdict.to_json()])


@pytest.fixture
def releases(ledger: Ledger, tmp_path: Path) -> list[Release]:
    model = f"m-{uuid.uuid4().hex[:8]}"
    return [released(ledger, model, candidate, tmp_path) for candidate in ("1", "2", "3")]


def change(ledger: Ledger, release: Release, path: str, at: int = 40) -> None:
    """Flips one bit of one byte of a kept file."""
    content = bytearray(ledger.read(release, path) or b"")
    content[at] ^= 1
    ledger.runs.put(ledger.runs.get(release.run_id), path, bytes(content))


@on_both
def test_what_happened_holds(ledger: Ledger, releases: list[Release]) -> None:
    assert verify(ledger, model=releases[0].model) == []
    assert verify(ledger, run_id=releases[2].run_id) == []


@on_both
@pytest.mark.parametrize(
    "path", ["record.json", "verdict.json", "policy.json", "evidence/shadow/answers.parquet", "evidence/shadow/evidence.json"]
)  # fmt: skip
def test_one_byte_is_found_and_named(ledger: Ledger, releases: list[Release], path: str) -> None:
    change(ledger, releases[1], path)
    (finding,) = verify(ledger, model=releases[0].model)
    assert (finding.run_id, finding.file) == (releases[1].run_id, path)
    assert releases[1].name in str(finding) and path in str(finding) and "expected" in str(finding)
    assert verify(ledger, run_id=releases[0].run_id) == []


def test_any_byte_of_a_record_counts() -> None:
    whole = seal({"format": 1, "reason": "équal", "evidence": {"a": "sha256:0"}, "closed_at": 1.5})
    assert unseal(whole)["reason"] == "équal"
    for at in range(len(whole)):
        for changed in (bytes([whole[at] ^ 1]), b"", bytes([whole[at]]) + b" "):
            with pytest.raises(BrokenRecordError):
                unseal(whole[:at] + changed + whole[at + 1 :])


def test_a_record_sealed_anew_breaks_the_chain(ledger: Ledger, releases: list[Release]) -> None:
    record = unseal(ledger.read(releases[0], "record.json") or b"")
    del record["hash"]
    forged = seal({**record, "reason": "a nicer one"})
    run = ledger.runs.get(releases[0].run_id)
    ledger.runs.put(run, "record.json", forged)
    assert {finding.run_id for finding in verify(ledger, model=run.tags["shipway.model"])} >= {run.run_id}
    ledger.runs.write(run.run_id, tags={"shipway.record": unseal(forged)["hash"]})
    (finding,) = verify(ledger, model=run.tags["shipway.model"])
    assert finding.run_id == releases[1].run_id and "rewritten" in finding.found


def test_a_verdict_that_the_evidence_does_not_give(ledger: Ledger, tmp_path: Path) -> None:
    model = f"m-{uuid.uuid4().hex[:8]}"
    release = ledger.open(model, "2", baseline="1", policy=POLICY, policy_source="test", digests={}, owner={})
    window = evidence(model, "2")
    window.save(tmp_path / "w")
    ledger.keep(release, "evidence/shadow", tmp_path / "w")
    wished = {**judge(window, POLICY).to_json(), "outcome": "PROMOTE", "reason": "because"}
    ledger.close(release, "PROMOTED", "because", [wished])
    (finding,) = verify(ledger, run_id=release.run_id)
    assert (finding.file, finding.found) == ("verdict.json", "PROMOTE: because")


def test_missing_files_runs_and_records(ledger: Ledger, releases: list[Release]) -> None:
    model = releases[0].model
    record = unseal(ledger.read(releases[2], "record.json") or b"")
    assert list(record["evidence"]) == [f"evidence/shadow/{name}" for name in sorted(
        ["answers.parquet", "evidence.json", "inputs.parquet", "requests.parquet"]
    )]  # fmt: skip
    open_one = ledger.open(model, "4", baseline="1", policy=POLICY, policy_source="test", digests={}, owner={})
    assert verify(ledger, model=model) == []  # an open release has no record yet
    ledger.runs.end(open_one.run_id)
    (finding,) = verify(ledger, model=model)
    assert (finding.run_id, finding.file) == (open_one.run_id, "record.json")
    ledger.runs.delete(releases[1].run_id)
    removed = [finding for finding in verify(ledger, model=model) if finding.run_id == releases[2].run_id]
    assert len(removed) == 1 and "one was removed" in removed[0].found


def test_canonical_json_is_one_form() -> None:
    assert canonical({"b": 1, "a": [1.5, "é"]}) == b'{"a":[1.5,"\\u00e9"],"b":1}'
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical(float("nan"))


def test_the_wire_check_of_a_version_with_a_baseline_is_recomputed(ledger: Ledger, tmp_path: Path) -> None:
    release = ledger.open("m", "2", baseline="1", policy=POLICY, policy_source="test", digests={}, owner={})
    result = CheckResult(200, 3, 0.5, 0, 1e-9)
    save_checks(tmp_path / "c", result, None)
    ledger.keep(release, "evidence/check", tmp_path / "c")
    verdict = {**judge_wire("1", "2", result).to_json(), "evidence": "evidence/check"}
    ledger.close(release, "ROLLED_BACK", "differs", [verdict])
    assert verify(ledger) == []
    wished = {**verdict, "outcome": "PROMOTE"}
    again = ledger.open("m", "2", baseline="1", policy=POLICY, policy_source="test", digests={}, owner={})
    ledger.keep(again, "evidence/check", tmp_path / "c")
    ledger.close(again, "PROMOTED", "wished", [wished])
    (finding,) = verify(ledger)
    assert (finding.run_id, finding.file) == (again.run_id, "verdict.json")
