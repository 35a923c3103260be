"""The ledger: one MLflow run per release in ``releases/<model>``, open while the release owns its model."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bentos.policy.load import parse_policy
from bentos.policy.release import ReleasePolicy
from monitoring.interface import PermanentMonitoringError, TransientMonitoringError
from monitoring.ledger.record import (
    NONE,
    POLICY,
    RECORD,
    VERDICT,
    BrokenRecordError,
    canonical,
    code,
    digest,
    plain,
    seal,
    unseal,
)
from monitoring.ledger.release import (
    DIGEST,
    FACT,
    KEPT,
    OUTCOMES,
    OWNER,
    PREFIX,
    Release,
    confirmed,
    experiment,
    people,
    release_of,
    under,
)
from monitoring.ledger.tracking import TAG_LIMIT, MlflowRuns, Run, Runs

CLAIM_SECONDS = 10.0  # a claim not confirmed in this time was left by a process that died


class BusyError(TransientMonitoringError):
    """Somebody else owns this model's release; the message names the release and its owner."""


class ClosedError(PermanentMonitoringError):
    """The release was closed, by another process or before."""


class Ledger:
    """Releases of all models on one MLflow server.

    Every method raises TransientMonitoringError while MLflow is away. *scratch* is a private folder for files on their
    way. *runs* replaces MLflow (see ``monitoring/ledger/memory.py``).
    """

    def __init__(
        self, tracking_uri: str, scratch: Path, *, runs: Runs | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.tracking_uri = tracking_uri
        self.runs: Runs = runs if runs is not None else MlflowRuns(tracking_uri, files=MlflowFiles(scratch))
        self.scratch = scratch
        self._clock = clock

    def open(
        self,
        model: str,
        candidate: str,
        *,
        baseline: str | None,
        policy: ReleasePolicy,
        policy_source: str,
        digests: Mapping[str, str],
        owner: Mapping[str, str],
    ) -> Release:
        """Opens the release of *candidate*, or takes over the open one of the same candidate (a resume).

        A resumed release keeps the baseline, policy and digests that it was opened with (see ``policy``). Raises
        BusyError naming the owner while another candidate of *model* is under release.
        """
        tags = {
            **{f"{DIGEST}{key}": value for key, value in digests.items()},
            **{f"{OWNER}{key}": value for key, value in owner.items()},
            f"{PREFIX}model": model,
            f"{PREFIX}candidate": candidate,
            f"{PREFIX}baseline": baseline or NONE,
            f"{PREFIX}policy": canonical(policy.model_dump(mode="json")).decode(),
            f"{PREFIX}policy_source": policy_source,
            f"{PREFIX}state": "claiming",
        }
        for _ in range(8):
            busy = self._settled(model)
            if busy is not None:
                return self._resume(busy, candidate, owner)
            attempt = self.attempts(model, candidate) + 1
            opened = {f"{PREFIX}attempt": str(attempt), f"{PREFIX}heartbeat": repr(self._clock())}
            run = self.runs.create(experiment(model), f"{model}-{candidate}-{attempt}", _fits({**tags, **opened}))
            if [other.run_id for other in self._running(model)] == [run.run_id]:
                self.runs.write(run.run_id, params=_flat(policy.model_dump(mode="json")))
                self.runs.write(run.run_id, tags={f"{PREFIX}state": "open"})
                return release_of(self.runs.get(run.run_id))
            # Two opened at once, and nothing in MLflow orders them: every one that saw another withdraws.
            self.runs.delete(run.run_id)
            time.sleep(random.uniform(0.05, 0.4))
        raise BusyError(f"releases of {model} are being opened by other processes at this moment; try again.")

    def current(self, model: str) -> Release | None:
        """The open release of *model*, if any."""
        found = [run for run in self._running(model) if confirmed(run)]
        return release_of(found[0]) if found else None

    def releases(self, model: str, limit: int = 20) -> list[Release]:
        """The releases of *model*, newest first, open and closed."""
        return [release_of(run) for run in self._search(experiment(model), limit=limit)]

    def all_open(self) -> list[Release]:
        """Every open release of every model."""
        return [release_of(run) for run in self._search(experiment("*"), running=True)]

    def everything(self, model: str | None = None, limit: int = 1_000_000) -> list[Release]:
        """The newest *limit* releases, open and closed, newest first; of all models where *model* is None."""
        return [release_of(run) for run in self._search(experiment(model or "*"), limit=limit)]

    def get(self, run_id: str) -> Release:
        """The release of a run; raises UnknownRunError, or PermanentMonitoringError where the run is no release."""
        run = self.runs.get(run_id)
        if f"{PREFIX}candidate" not in run.tags:
            raise PermanentMonitoringError(f"run {run_id} in {run.experiment} is no release of Shipway.")
        return release_of(run)

    def attempts(self, model: str, version: str) -> int:
        """How many releases of *version* were closed."""
        return len(self._search(experiment(model), running=False, tags={f"{PREFIX}candidate": version}))

    def policy(self, release: Release) -> ReleasePolicy:
        """The policy the release was opened with."""
        text = self.runs.get(release.run_id).tags[f"{PREFIX}policy"]
        return parse_policy(json.loads(text), where=f"release {release.name} (run {release.run_id})")

    def note(self, release: Release, **facts: str) -> Release:
        """Notes *facts* and returns the release with all of its facts as read back."""
        self.runs.write(release.run_id, tags=_fits({f"{FACT}{key}": value for key, value in facts.items()}))
        return replace(release_of(self.runs.get(release.run_id)), owner=release.owner)

    def heartbeat(self, release: Release, now: float) -> None:
        """Says that the owner was alive at *now* (unix seconds).

        Raises BusyError where another process took the release over, ClosedError where it was closed: the caller must
        stop acting for it.
        """
        found = release_of(self.runs.get(release.run_id))
        if not found.open:
            raise ClosedError(f"release {release.name} was closed as {found.outcome or 'nothing'}: {found.reason}")
        if dict(found.owner) != dict(release.owner):
            raise BusyError(f"release {release.name} was taken over by {people(found.owner)}.")
        self.runs.write(release.run_id, tags={f"{PREFIX}heartbeat": repr(now)})

    def metrics(self, release: Release, numbers: Mapping[str, float], step: int) -> None:
        """Logs numbers of one look at the evidence."""
        self.runs.write(release.run_id, numbers=numbers, step=step)

    def keep(self, release: Release, name: str, folder: Path) -> Mapping[str, str]:
        """Uploads the files under *folder* as ``<name>/…`` and returns their digests, which the record will hold."""
        run, digests = self.runs.get(release.run_id), {}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            content, relative = path.read_bytes(), path.relative_to(folder).as_posix()
            self.runs.put(run, f"{name}/{relative}", content)
            digests[relative] = digest(content)
        if not digests:
            raise PermanentMonitoringError(f"{folder}: expected files to keep as {name!r}, found none.")
        self.runs.write(release.run_id, tags=_fits({f"{KEPT}{name}": canonical(digests).decode()}))
        return digests

    def read(self, release: Release, path: str) -> bytes | None:
        """One kept file of the release, ``record.json`` and ``verdict.json`` among them; None where there is none."""
        return self.runs.read(self.runs.get(release.run_id), path)

    def close(self, release: Release, outcome: str, reason: str, verdicts: Iterable[Mapping[str, Any]] = ()) -> Release:
        """Writes verdict.json, policy.json and record.json, then ends the run.

        *verdicts* are ``Verdict.to_json()`` values; one may say under ``evidence`` the name of its kept folder, where
        that is not ``evidence/<stage>``. Closing again finishes what a crash left: a whole record that is there already
        stands, whatever the second call says.
        """
        if outcome not in OUTCOMES:
            raise PermanentMonitoringError(
                f"release {release.name}: outcome {outcome!r} is not one of {', '.join(OUTCOMES)}"
            )
        run = self.runs.get(release.run_id)
        record = self._record(run)
        if record is None:
            sealed = self._sealed(run, outcome, reason, list(verdicts))
            self.runs.put(run, RECORD, sealed)
            record = unseal(sealed)
        tags = {
            f"{PREFIX}outcome": str(record["outcome"]),
            f"{PREFIX}reason": _clipped(str(record["reason"])),
            f"{PREFIX}sequence": str(record["sequence"]),
            f"{PREFIX}record": str(record["hash"]),
        }
        self.runs.write(run.run_id, tags=tags)
        if run.running:
            self.runs.end(run.run_id)
        return release_of(self.runs.get(run.run_id))

    def _sealed(self, run: Run, outcome: str, reason: str, verdicts: list[Mapping[str, Any]]) -> bytes:
        """Uploads what the record names, then gives the record's bytes."""
        release = release_of(run)
        policy = run.tags[f"{PREFIX}policy"].encode()
        verdict = canonical(plain({"outcome": outcome, "reason": reason, "verdicts": verdicts}))
        self.runs.put(run, POLICY, policy)
        self.runs.put(run, VERDICT, verdict)
        closed = [other for other in self._search(experiment(release.model)) if f"{PREFIX}record" in other.tags]
        last = max(closed, key=lambda other: int(other.tags[f"{PREFIX}sequence"]), default=None)
        evidence = {
            f"{name}/{path}": known
            for name, files in under(run.tags, KEPT).items()
            for path, known in json.loads(files).items()
        }
        return seal(
            {
                "format": 1,
                "run_id": run.run_id,
                "model": release.model,
                "candidate": release.candidate,
                "baseline": release.baseline or NONE,
                "attempt": release.attempt,
                "sequence": int(last.tags[f"{PREFIX}sequence"]) + 1 if last else 1,
                "previous": last.tags[f"{PREFIX}record"] if last else NONE,
                "opened_at": release.opened_at,
                "closed_at": self._clock(),
                "outcome": outcome,
                "reason": reason,
                "digests": dict(release.digests),
                "policy": {"digest": digest(policy), "source": release.policy_source},
                "verdict": digest(verdict),
                "evidence": evidence,
                "facts": dict(release.facts),
                "code": code(),
            }
        )

    def _record(self, run: Run) -> dict[str, Any] | None:
        """The whole record of the run; None where there is none, or only the torn upload of a process that died."""
        sealed = self.runs.read(run, RECORD)
        if sealed is None:
            return None
        try:
            return unseal(sealed)
        except BrokenRecordError:
            if not run.running:
                raise
            return None

    def _settled(self, model: str) -> Run | None:
        """The open release once no claim is in the air; claims of dead processes are withdrawn."""
        deadline = time.monotonic() + CLAIM_SECONDS + 5
        while True:
            running = self._running(model)
            claims = [run for run in running if not confirmed(run)]
            for claim in claims:
                if self._clock() - claim.started_ms / 1000 > CLAIM_SECONDS:
                    self.runs.delete(claim.run_id)
            owned = [run for run in running if confirmed(run)]
            if owned:
                return owned[0]
            if not claims:
                return None
            if time.monotonic() > deadline:
                raise BusyError(f"release of {model}: {people(under(claims[0].tags, OWNER))} is opening one.")
            time.sleep(random.uniform(0.05, 0.2))

    def _resume(self, run: Run, candidate: str, owner: Mapping[str, str]) -> Release:
        release = release_of(run)
        if release.candidate != candidate:
            raise BusyError(
                f"release of {release.model}/{candidate}: {release.model}/{release.candidate} is under release since "
                f"{release.opened_at:.0f} (run {run.run_id}), owned by {people(release.owner)}. Wait for its end, or "
                "cancel its flow run; reconcile closes what a dead owner left."
            )
        mine = {f"{OWNER}{key}": value for key, value in owner.items()}
        self.runs.write(run.run_id, tags={**mine, f"{PREFIX}heartbeat": repr(self._clock())})
        return release_of(self.runs.get(run.run_id))

    def _running(self, model: str) -> list[Run]:
        return self.runs.search(experiment(model), running=True, tags={}, limit=100)

    def _search(
        self,
        experiments: str,
        *,
        running: bool | None = None,
        tags: Mapping[str, str] | None = None,
        limit: int = 1_000_000,
    ) -> list[Run]:
        found = self.runs.search(experiments, running=running, tags=tags or {}, limit=limit)
        return [run for run in found if confirmed(run)]


class MlflowFiles:
    """Files of runs whose artifacts the tracking server does not proxy, through MLflow's own client (imported late)."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch

    def put(self, tracking_uri: str, run_id: str, path: str, content: bytes) -> None:
        """Writes one file of the run."""
        from mlflow import MlflowClient

        folder, _, name = path.rpartition("/")
        local = self._scratch / "ledger" / run_id / f"{random.getrandbits(64):x}" / name
        local.parent.mkdir(parents=True)
        try:
            local.write_bytes(content)
            MlflowClient(tracking_uri).log_artifact(run_id, str(local), folder or None)
        finally:
            shutil.rmtree(local.parent)

    def read(self, tracking_uri: str, run_id: str, path: str) -> bytes | None:
        """One file of the run, or None."""
        from mlflow import MlflowClient

        client, (folder, _, _) = MlflowClient(tracking_uri), path.rpartition("/")
        if path not in [entry.path for entry in client.list_artifacts(run_id, folder or None)]:
            return None
        local = self._scratch / "ledger" / run_id / f"{random.getrandbits(64):x}"
        local.mkdir(parents=True)
        try:
            return Path(client.download_artifacts(run_id, path, str(local))).read_bytes()
        finally:
            shutil.rmtree(local)


def _fits(tags: Mapping[str, str]) -> Mapping[str, str]:
    """*tags*, or PermanentMonitoringError where MLflow would cut one short."""
    for key, value in tags.items():
        if len(value) > TAG_LIMIT:
            raise PermanentMonitoringError(
                f"tag {key}: {len(value)} characters, MLflow keeps {TAG_LIMIT}; keep it as a file instead."
            )
    return tags


def _clipped(text: str) -> str:
    return text if len(text) <= 2000 else text[:1990] + "…"  # record.json has all of it


def _flat(values: Mapping[str, Any], prefix: str = "policy") -> dict[str, str]:
    """Nested values as ``policy.split.steps`` → text, the form MLflow's parameters have."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}.{key}"
        flat |= _flat(value, name) if isinstance(value, dict) else {name: json.dumps(value)}
    return flat


__all__ = ["BusyError", "ClosedError", "Ledger", "MlflowFiles", "Release"]
