"""Verifies the ledger: the chain of records, the digests of what they name, and the verdicts from the kept evidence."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from bentos.policy.load import parse_policy
from bentos.policy.release import ReleasePolicy
from bentos.serving.errors import PermanentError
from monitoring.ledger.ledger import Ledger
from monitoring.ledger.record import NONE, POLICY, RECORD, VERDICT, BrokenRecordError, digest, plain, unseal
from monitoring.ledger.release import Release

if TYPE_CHECKING:
    from monitoring.evidence.check import CheckResult

CHECKS = "checks.json"


@dataclass(frozen=True)
class Finding:
    """One thing that is not as the record says; ``file`` is relative to the run's artifacts, "" for the run itself."""

    release: str  # "flights/3, attempt 1"
    run_id: str
    file: str
    expected: str
    found: str

    def __str__(self) -> str:
        where = f" {self.file}" if self.file else ""
        return f"release {self.release} (run {self.run_id}){where}: expected {self.expected}, found {self.found}"


def verify(ledger: Ledger, *, model: str | None = None, run_id: str | None = None) -> list[Finding]:
    """Every finding of one release (*run_id*), of a model's, or of all; none means that every record holds.

    The chain is always followed through the whole model, because a record stands on those before it; with *run_id* only
    that release's files and verdicts are recomputed. Raises TransientMonitoringError while MLflow is away, and
    UnknownRunError.
    """
    only = ledger.get(run_id) if run_id is not None else None
    releases = ledger.everything(only.model if only else model)
    findings: list[Finding] = []
    for name in sorted({release.model for release in releases}):
        closed = [release for release in releases if release.model == name and not release.open]
        records = {release.run_id: _record(ledger, release, findings) for release in closed}
        findings += _chain(closed, records)
        for release in closed:
            record = records[release.run_id]
            if record is not None and (only is None or release.run_id == only.run_id):
                findings += _files(ledger, release, record)
    return [finding for finding in findings if only is None or finding.run_id == only.run_id]


def save_checks(folder: Path, check: CheckResult | None, replay: CheckResult | None) -> None:
    """Writes what ``judge_first`` or ``judge_wire`` was given into *folder*, to be kept as ``evidence/replay``."""
    folder.mkdir(parents=True, exist_ok=True)
    results = {"check": check, "replay": replay}
    values = {name: asdict(result) if result is not None else None for name, result in results.items()}
    (folder / CHECKS).write_text(json.dumps(values, indent=1))


def _record(ledger: Ledger, release: Release, findings: list[Finding]) -> dict[str, Any] | None:
    """The release's record, once it holds by itself; what does not is added to *findings*."""

    def wrong(expected: str, found: str) -> None:
        findings.append(Finding(release.name, release.run_id, RECORD, expected, found))

    sealed = ledger.read(release, RECORD)
    if sealed is None:
        wrong("a record of a closed release", "none: the run was ended without one")
        return None
    try:
        record = unseal(sealed)
    except BrokenRecordError as error:
        wrong("the record as it was sealed", str(error))
        return None
    if record["hash"] != release.record_hash:
        wrong(f"hash {release.record_hash or 'in the run, as the tag shipway.record'}", f"hash {record['hash']}")
    said = {
        "run_id": release.run_id,
        "model": release.model,
        "candidate": release.candidate,
        "baseline": release.baseline or NONE,
        "attempt": release.attempt,
        "outcome": release.outcome,
    }
    for key, value in said.items():
        if record.get(key) != value:
            wrong(f"{key} {value!r} as the run says", f"{record.get(key)!r}")
    return record


def _chain(closed: list[Release], records: Mapping[str, dict[str, Any] | None]) -> list[Finding]:
    """Every record names the one before it, from the first on."""
    findings = []
    readable = [(release, record) for release in closed if (record := records[release.run_id]) is not None]
    before, number = NONE, 0
    broken = {release.sequence: release for release in closed if records[release.run_id] is None}
    for release, record in sorted(readable, key=lambda pair: int(pair[1]["sequence"])):
        number += 1
        while number in broken:  # reported already; the chain goes on from the hash that its run carries
            before = broken[number].record_hash
            number += 1
        if record["sequence"] != number or record["previous"] != before:
            findings.append(
                Finding(
                    release.name,
                    release.run_id,
                    RECORD,
                    f"record {number} of {release.model} on top of {before}",
                    f"record {record['sequence']} on top of {record['previous']}: one was removed, added or rewritten",
                )
            )
            number = int(record["sequence"])
        before = str(record["hash"])
    return findings


def _files(ledger: Ledger, release: Release, record: Mapping[str, Any]) -> list[Finding]:
    """Digests of every file the record names, then the verdicts recomputed from them."""
    named = {POLICY: record["policy"]["digest"], VERDICT: record["verdict"], **record["evidence"]}
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory(prefix="shipway-verify-") as folder:
        for path, expected in named.items():
            content = ledger.read(release, path)
            if content is None or digest(content) != expected:
                found = "no file" if content is None else digest(content)
                findings.append(Finding(release.name, release.run_id, path, expected, found))
            else:
                local = Path(folder) / path
                local.parent.mkdir(parents=True, exist_ok=True)
                local.write_bytes(content)
        return findings or _verdicts(release, Path(folder))


def _verdicts(release: Release, folder: Path) -> list[Finding]:
    """The stored verdicts against those that the stored evidence gives under the stored policy."""
    where = f"release {release.name} (run {release.run_id})"
    try:
        policy = parse_policy(json.loads((folder / POLICY).read_bytes()), where=where)
    except PermanentError as error:
        return [Finding(release.name, release.run_id, POLICY, "a policy this version of Shipway reads", str(error))]
    stored = json.loads((folder / VERDICT).read_bytes())["verdicts"]
    latest = {str(verdict.get("evidence", f"evidence/{verdict['stage']}")): verdict for verdict in stored}
    findings = []
    for name, verdict in latest.items():
        try:
            again = _recompute(folder / PurePosixPath(name), verdict, policy)
        except PermanentError as error:
            findings.append(Finding(release.name, release.run_id, name, "evidence that can be judged", str(error)))
            continue
        kept = {key: value for key, value in verdict.items() if key in again}
        if kept != again:
            findings.append(
                Finding(release.name, release.run_id, VERDICT, f"{name} judged as {_short(again)}", _short(kept))
            )
    return findings


def _recompute(folder: Path, verdict: Mapping[str, Any], policy: ReleasePolicy) -> dict[str, Any]:
    """What the evidence in *folder* comes to, as the JSON that verdict.json holds."""
    from monitoring.evidence.evidence import load
    from monitoring.verdict import judge

    if verdict["stage"] == "replay":
        return dict(plain(_replayed(folder, verdict)))
    return dict(plain(judge(load(folder), policy).to_json()))


def _replayed(folder: Path, verdict: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict of the wire check, and of a first version's replay, from the kept results (see ``save_checks``)."""
    from monitoring.evidence.check import CheckResult
    from monitoring.interface import PermanentMonitoringError
    from monitoring.verdict import judge_first, judge_wire

    path = folder / CHECKS
    try:
        kept = json.loads(path.read_bytes())
        check, replay = (CheckResult(**kept[name]) if kept[name] is not None else None for name in ("check", "replay"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PermanentMonitoringError(f"{path.name}: expected the results of the wire check: {error!r}") from error
    if verdict["baseline"] != NONE:
        return judge_wire(verdict["baseline"], verdict["candidate"], check).to_json()
    return judge_first(verdict["candidate"], check, replay).to_json()


def _short(verdict: Mapping[str, Any]) -> str:
    return f"{verdict['outcome']}: {verdict['reason']}"
