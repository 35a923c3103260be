"""The ledger's contract, held by MLflow's and by the one in memory alike."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from bentos.policy.gates import SplitPolicy
from bentos.policy.release import ReleasePolicy
from monitoring.interface import PermanentMonitoringError, TransientMonitoringError
from monitoring.ledger.ledger import BusyError, ClosedError, Ledger, Release
from monitoring.ledger.memory import MemoryLedger, MemoryRuns
from monitoring.ledger.record import digest, unseal
from monitoring.ledger.tracking import MlflowRuns, UnknownRunError

OWNER = {"flow_run_id": "f-1", "pid": "11", "host": "here", "identity": "1.5"}
Make = Callable[[], Ledger]


@pytest.fixture(params=["mlflow", "memory"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Makes ledgers over one store, as several processes would."""
    if request.param == "memory":
        runs = MemoryRuns()
        return lambda: MemoryLedger(tmp_path, runs=runs)
    uri = request.getfixturevalue("mlflow_server")
    return lambda: Ledger(uri, tmp_path)


@pytest.fixture
def model() -> str:
    return f"it's-{uuid.uuid4().hex[:8]}"


def opened(ledger: Ledger, model: str, candidate: str = "2", **more: object) -> Release:
    values = {
        "baseline": "1",
        "policy": ReleasePolicy(),
        "policy_source": "built-in defaults",
        "digests": {"model": "sha256:aa"},
        "owner": OWNER,
    }
    return ledger.open(model, candidate, **{**values, **more})  # type: ignore[arg-type]


def test_open_reads_back(make: Make, model: str) -> None:
    ledger = make()
    assert ledger.current(model) is None
    assert ledger.releases(model) == []
    release = opened(ledger, model)
    assert (release.candidate, release.baseline, release.attempt, release.open) == ("2", "1", 1, True)
    assert dict(release.owner) == OWNER
    assert dict(release.digests) == {"model": "sha256:aa"}
    assert make().current(model) == release
    assert release in make().all_open()
    assert ledger.attempts(model, "2") == 0
    assert ledger.policy(release) == ReleasePolicy()
    assert opened(ledger, f"{model}-first", baseline=None).baseline is None


def test_a_release_knows_its_experiment_and_the_last_numbers(make: Make, model: str) -> None:
    ledger = make()
    release = opened(ledger, model)
    assert release.experiment_id and release.numbers == {}
    assert opened(ledger, f"{model}-other").experiment_id != release.experiment_id
    for step, requests in ((1, 10.0), (2, 25.0)):
        ledger.metrics(release, {"shadow.requests": requests}, step)
    (found,) = make().releases(model)
    assert (found.experiment_id, found.numbers) == (release.experiment_id, {"shadow.requests": 25.0})
    if isinstance(ledger.runs, MlflowRuns):
        where = f"{ledger.tracking_uri}/api/2.0/mlflow/experiments/get"
        answer = httpx.get(where, params={"experiment_id": release.experiment_id}, trust_env=False)
        assert answer.json()["experiment"]["name"] == f"releases/{model}"


def test_the_newest_of_all_releases(make: Make, model: str) -> None:
    ledger = make()
    for number in range(3):
        opened(ledger, f"{model}-{number}")
    assert [release.model for release in ledger.everything(limit=2)] == [f"{model}-2", f"{model}-1"]


def test_another_candidate_is_refused_naming_the_owner(make: Make, model: str) -> None:
    first = opened(make(), model)
    with pytest.raises(BusyError, match=rf"{model}/2 is under release.*{first.run_id}.*flow_run_id f-1"):
        opened(make(), model, "3")
    assert [release.run_id for release in make().all_open() if release.model == model] == [first.run_id]


def test_the_same_candidate_resumes_and_takes_over(make: Make, model: str) -> None:
    ledger = make()
    first = ledger.note(opened(ledger, model), step="shadow")
    other = {**OWNER, "pid": "12"}
    again = opened(make(), model, policy=ReleasePolicy(split=SplitPolicy(steps=(5,))), owner=other)
    assert again.run_id == first.run_id
    assert again.facts == {"step": "shadow"}
    assert dict(again.owner) == other
    assert ledger.policy(again) == ReleasePolicy()  # what it was opened with
    make().heartbeat(again, 77.5)
    assert make().get(again.run_id).heartbeat_at == 77.5
    with pytest.raises(BusyError, match=r"taken over by .*pid 12"):
        ledger.heartbeat(first, 78.0)


def test_close_writes_a_chained_record(make: Make, model: str, tmp_path: Path) -> None:
    ledger = make()
    (tmp_path / "e" / "sub").mkdir(parents=True)
    (tmp_path / "e" / "sub" / "requests.parquet").write_bytes(b"rows")
    first = opened(ledger, model, "1", baseline=None)
    ledger.keep(first, "evidence/replay", tmp_path / "e")
    ledger.metrics(first, {"error_rate": 0.5, "odd": float("nan")}, 3)
    first = ledger.note(first, step="done")
    closed = ledger.close(first, "PROMOTED", "all well", [{"stage": "replay", "outcome": "PROMOTE"}])
    assert (closed.open, closed.outcome, closed.reason) == (False, "PROMOTED", "all well")
    assert closed.closed_at is not None and closed.closed_at >= closed.opened_at
    assert ledger.current(model) is None and ledger.attempts(model, "1") == 1

    sealed = ledger.read(closed, "record.json")
    assert sealed is not None
    record = unseal(sealed)
    assert record["previous"] == "none" and record["baseline"] == "none" and record["sequence"] == 1
    assert record["evidence"] == {"evidence/replay/sub/requests.parquet": digest(b"rows")}
    assert ledger.read(closed, "evidence/replay/sub/requests.parquet") == b"rows"
    assert record["facts"] == {"step": "done"}
    assert record["policy"]["digest"] == ReleasePolicy().digest()
    verdict = ledger.read(closed, "verdict.json")
    assert verdict is not None and record["verdict"] == digest(verdict)
    assert json.loads(verdict)["verdicts"] == [{"stage": "replay", "outcome": "PROMOTE"}]

    second = ledger.close(opened(ledger, model, "2"), "ROLLED_BACK", "worse")
    chained = unseal(ledger.read(second, "record.json") or b"")
    assert (chained["previous"], chained["sequence"], chained["baseline"]) == (record["hash"], 2, "1")
    assert [release.candidate for release in ledger.releases(model)] == ["2", "1"]
    assert [release.candidate for release in ledger.releases(model, 1)] == ["2"]
    assert opened(ledger, model, "2").attempt == 2


def test_close_again_finishes_what_a_crash_left(make: Make, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, release = make(), opened(make(), model)

    def crash(run_id: str) -> None:
        raise TransientMonitoringError("crash before the run ended")

    monkeypatch.setattr(ledger.runs, "end", crash)
    with pytest.raises(TransientMonitoringError):
        ledger.close(release, "PROMOTED", "all well")
    monkeypatch.undo()
    written = ledger.read(release, "record.json")
    assert ledger.current(model) is not None
    closed = make().close(release, "ERROR", "what reconcile says of a dead flow")
    assert (closed.open, closed.outcome, closed.reason) == (False, "PROMOTED", "all well")
    assert ledger.read(release, "record.json") == written
    assert make().close(release, "ERROR", "once more") == closed


def test_a_torn_record_is_written_again(make: Make, model: str) -> None:
    ledger = make()
    release = opened(ledger, model)
    ledger.runs.put(ledger.runs.get(release.run_id), "record.json", b'{"format": 1, "ru')
    assert ledger.close(release, "ERROR", "the flow died").outcome == "ERROR"
    assert unseal(ledger.read(release, "record.json") or b"")["reason"] == "the flow died"


def test_a_closed_release_says_so(make: Make, model: str) -> None:
    ledger = make()
    release = opened(ledger, model)
    with pytest.raises(PermanentMonitoringError, match="'DONE' is not one of PROMOTED"):
        ledger.close(release, "DONE", "")
    ledger.close(release, "CANCELLED", "by hand")
    with pytest.raises(ClosedError, match="closed as CANCELLED: by hand"):
        ledger.heartbeat(release, 1.0)
    with pytest.raises(UnknownRunError):
        ledger.get("f" * 32)
    with pytest.raises(PermanentMonitoringError, match="MLflow keeps 8000"):
        ledger.note(release, long="x" * 8001)


def test_opened_at_once_only_one_wins(make: Make, model: str) -> None:
    results: list[Release | BusyError] = []
    start = threading.Barrier(3)

    def race(candidate: str) -> None:
        ledger = make()
        start.wait()
        try:
            results.append(opened(ledger, model, candidate))
        except BusyError as error:
            results.append(error)

    threads = [threading.Thread(target=race, args=(str(number),)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [result for result in results if isinstance(result, Release)]
    assert len(results) == 3 and len(winners) == 1
    assert make().current(model) == winners[0]


def test_a_claim_of_a_dead_process_is_withdrawn(make: Make, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = make()

    def crash(*_: object, **__: object) -> None:
        raise TransientMonitoringError("crash between claim and confirmation")

    monkeypatch.setattr(ledger.runs, "write", crash)
    with pytest.raises(TransientMonitoringError):
        opened(ledger, model)
    monkeypatch.undo()
    assert ledger.current(model) is None
    assert [release for release in ledger.all_open() if release.model == model] == []
    monkeypatch.setattr("monitoring.ledger.ledger.CLAIM_SECONDS", 0.3)
    assert opened(make(), model, "3").candidate == "3"


def test_mlflow_away_is_transient(tmp_path: Path) -> None:
    with pytest.raises(TransientMonitoringError, match=r"MLflow at http://127.0.0.1:9 did not answer"):
        Ledger("http://127.0.0.1:9", tmp_path).current("m")
    with pytest.raises(PermanentMonitoringError, match="expected http://host:port"):
        Ledger("sqlite:///x.db", tmp_path)


def test_artifacts_that_the_server_does_not_proxy(mlflow_server: str, model: str, tmp_path: Path) -> None:
    """An experiment of a store of its own (S3 and the like; here a folder) goes through MLflow's client."""
    place = {"name": f"releases/{model}", "artifact_location": (tmp_path / "elsewhere").as_uri()}
    httpx.post(f"{mlflow_server}/api/2.0/mlflow/experiments/create", json=place).raise_for_status()
    ledger = Ledger(mlflow_server, tmp_path / "scratch")
    release = opened(ledger, model)
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "requests.parquet").write_bytes(b"rows")
    ledger.keep(release, "evidence/shadow", tmp_path / "e")
    assert ledger.read(release, "evidence/shadow/requests.parquet") == b"rows"
    assert ledger.read(release, "evidence/none.parquet") is None
    assert ledger.close(release, "PROMOTED", "well").outcome == "PROMOTED"
    assert len(list((tmp_path / "elsewhere").rglob("record.json"))) == 1
    assert [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()] == []
