"""The seam the ledger stands on: runs with tags, numbers and files, and MLflow's REST API behind it.

Plain HTTP, because ``import mlflow`` costs two seconds in every process that only wants to read one run. Protocol:
https://mlflow.org/docs/latest/rest-api.html and, for files, the ``mlflow-artifacts`` proxy of the tracking server.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import httpx

from monitoring.interface import PermanentMonitoringError, TransientMonitoringError

TAG_LIMIT = 8000  # MLflow's limit of a tag's value, in characters
PARAM_LIMIT = 6000
BATCH = 100  # tags or params in one call
PAGE = 1000  # runs in one answer


class UnknownRunError(PermanentMonitoringError):
    """No run, or no experiment, is known so."""


@dataclass(frozen=True)
class Run:
    """One run as the store described it at one moment; times are unix milliseconds."""

    run_id: str
    experiment: str
    experiment_id: str
    running: bool
    started_ms: int
    ended_ms: int | None
    artifacts: str  # URI of the run's artifact folder
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)  # the last value of each


class Runs(Protocol):
    """Where runs are kept. Every method raises TransientMonitoringError where the store is away."""

    def create(self, experiment: str, name: str, tags: Mapping[str, str]) -> Run:
        """A new running run with all *tags* set at once; makes the experiment where it is missing."""

    def get(self, run_id: str) -> Run:
        """The run; raises UnknownRunError."""

    def search(self, experiments: str, *, running: bool | None, tags: Mapping[str, str], limit: int) -> list[Run]:
        """Runs, newest first, of the experiment named so, or of all that begin so where the name ends with ``*``."""

    def write(
        self,
        run_id: str,
        *,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        numbers: Mapping[str, float] | None = None,
        step: int = 0,
    ) -> None:
        """Sets tags, logs params (a param never changes its value) and numbers at *step*."""

    def end(self, run_id: str) -> None:
        """Marks the run finished now."""

    def delete(self, run_id: str) -> None:
        """Withdraws a run that should not have been made."""

    def put(self, run: Run, path: str, content: bytes) -> None:
        """Writes one file of the run; *path* is relative, with ``/``."""

    def read(self, run: Run, path: str) -> bytes | None:
        """One file of the run, or None where there is none."""


class MlflowRuns:
    """Runs on an MLflow tracking server, by REST.

    ``trust_env`` (proxies) is left off for loopback. ``files`` takes over put and read where the server does not proxy
    artifacts (``s3://…`` and the like).
    """

    def __init__(self, tracking_uri: str, *, files: ForeignFiles, timeout: float = 15.0) -> None:
        parts = urlsplit(tracking_uri)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise PermanentMonitoringError(
                f"tracking URI {tracking_uri!r}: expected http://host:port of an MLflow server. "
                "Set MLFLOW_TRACKING_URI to one, or run `shipway up`."
            )
        loopback = parts.hostname in ("localhost", "::1") or parts.hostname.startswith("127.")
        self._uri = tracking_uri.rstrip("/")
        # uvicorn closes an idle connection after five seconds; one that is about to go must not be used again
        limits = httpx.Limits(keepalive_expiry=2.0)
        self._http = httpx.Client(base_url=self._uri, timeout=timeout, trust_env=not loopback, limits=limits)
        weakref.finalize(self, self._http.close)  # ledgers are made per task and never closed by hand
        self._files = files
        self._experiments: dict[str, str] = {}

    def create(self, experiment: str, name: str, tags: Mapping[str, str]) -> Run:
        values = {
            "experiment_id": self._experiment(experiment),
            "run_name": name,
            "start_time": time.time_ns() // 1_000_000,
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        }
        return _run(self._call("POST", "runs/create", json=values)["run"], experiment)

    def get(self, run_id: str) -> Run:
        run = self._call("GET", "runs/get", params={"run_id": run_id})["run"]
        return _run(run, self._experiment_name(run["info"]["experiment_id"]))

    def search(self, experiments: str, *, running: bool | None, tags: Mapping[str, str], limit: int) -> list[Run]:
        names = self._named(experiments)
        if not names:
            return []
        clauses = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
        if running is not None:
            clauses.append(f"attributes.status {'=' if running else '!='} 'RUNNING'")
        body: dict[str, Any] = {
            "experiment_ids": list(names),
            "filter": " AND ".join(clauses),
            "order_by": ["attributes.start_time DESC"],
            "run_view_type": "ACTIVE_ONLY",
        }
        found: list[Run] = []
        while len(found) < limit:
            answer = self._call("POST", "runs/search", json={**body, "max_results": min(PAGE, limit - len(found))})
            found += [_run(run, names[run["info"]["experiment_id"]]) for run in answer.get("runs", [])]
            if not answer.get("next_page_token"):
                break
            body["page_token"] = answer["next_page_token"]
        return found

    def write(
        self,
        run_id: str,
        *,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        numbers: Mapping[str, float] | None = None,
        step: int = 0,
    ) -> None:
        now = time.time_ns() // 1_000_000
        pending_tags = [{"key": key, "value": value} for key, value in (tags or {}).items()]
        pending_params = [{"key": key, "value": value[:PARAM_LIMIT]} for key, value in (params or {}).items()]
        metrics = [
            {"key": key, "value": number if abs(number) < float("inf") else str(number), "timestamp": now, "step": step}
            for key, number in (numbers or {}).items()
        ]
        while pending_tags or pending_params or metrics:
            room = BATCH - len(pending_tags[:BATCH])
            batch = {
                "run_id": run_id,
                "tags": pending_tags[:BATCH],
                "params": pending_params[:room],
                "metrics": metrics[:BATCH],
            }
            self._call("POST", "runs/log-batch", json=batch)
            pending_tags, pending_params, metrics = pending_tags[BATCH:], pending_params[room:], metrics[BATCH:]

    def end(self, run_id: str) -> None:
        values = {"run_id": run_id, "status": "FINISHED", "end_time": time.time_ns() // 1_000_000}
        self._call("POST", "runs/update", json=values)

    def delete(self, run_id: str) -> None:
        self._call("POST", "runs/delete", json={"run_id": run_id})

    def put(self, run: Run, path: str, content: bytes) -> None:
        proxied = _proxied(run.artifacts)
        if proxied is None:
            self._files.put(self._uri, run.run_id, path, content)
            return
        self._send("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{quote(f'{proxied}/{path}')}", content=content)

    def read(self, run: Run, path: str) -> bytes | None:
        proxied = _proxied(run.artifacts)
        if proxied is None:
            return self._files.read(self._uri, run.run_id, path)
        where = f"/api/2.0/mlflow-artifacts/artifacts/{quote(f'{proxied}/{path}')}"
        if not self._lists(proxied, path):
            return None
        return self._send("GET", where).content

    def _lists(self, folder: str, path: str) -> bool:
        """Whether the file is there; MLflow answers a missing file with 500, so the folder is asked first."""
        parent, _, name = f"{folder}/{path}".rpartition("/")
        answer = self._send("GET", "/api/2.0/mlflow-artifacts/artifacts", params={"path": parent}).json()
        return any(entry["path"] == name and not entry.get("is_dir") for entry in answer.get("files", []))

    def _experiment(self, name: str) -> str:
        """The id of the experiment, made where it is missing."""
        if name not in self._experiments:
            found = self._named(name)
            if found:
                self._experiments[name] = next(iter(found))
            else:
                try:
                    self._experiments[name] = self._call("POST", "experiments/create", json={"name": name})[
                        "experiment_id"
                    ]
                except PermanentMonitoringError:
                    found = self._named(name)  # made by another process meanwhile
                    if not found:
                        raise
                    self._experiments[name] = next(iter(found))
        return self._experiments[name]

    def _experiment_name(self, experiment_id: str) -> str:
        for name, known in self._experiments.items():
            if known == experiment_id:
                return name
        answer = self._call("GET", "experiments/get", params={"experiment_id": experiment_id})
        name = str(answer["experiment"]["name"])
        self._experiments[name] = experiment_id
        return name

    def _named(self, pattern: str) -> dict[str, str]:
        """Experiment id → name of the active experiments that fit."""
        if not pattern.endswith("*"):
            try:
                answer = self._call("GET", "experiments/get-by-name", params={"experiment_name": pattern})
            except UnknownRunError:
                return {}
            entry = answer["experiment"]
            return {entry["experiment_id"]: pattern} if entry["lifecycle_stage"] == "active" else {}
        found: dict[str, str] = {}
        body: dict[str, Any] = {"max_results": PAGE, "filter": f"name LIKE '{pattern[:-1]}%'"}
        while True:
            answer = self._call("POST", "experiments/search", json=body)
            found |= {entry["experiment_id"]: entry["name"] for entry in answer.get("experiments", [])}
            if not answer.get("next_page_token"):
                return found
            body["page_token"] = answer["next_page_token"]

    def _call(self, method: str, endpoint: str, **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._send(method, f"/api/2.0/mlflow/{endpoint}", **more).json()
        return answer

    def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **more)
        except httpx.TransportError as error:
            raise TransientMonitoringError(
                f"MLflow at {self._uri} did not answer {method} {path}: {error!r}. `shipway status` says whether it runs."
            ) from error
        if answer.is_success:
            return answer
        said = f"MLflow at {self._uri} answered {answer.status_code} to {method} {path}: {answer.text[:500]}"
        if answer.status_code >= 500 or answer.status_code == 429:
            raise TransientMonitoringError(said)
        if answer.status_code == 404 and "RESOURCE_DOES_NOT_EXIST" in answer.text:
            raise UnknownRunError(said)
        raise PermanentMonitoringError(said)


class ForeignFiles(Protocol):
    """Files of runs whose artifacts the tracking server does not proxy."""

    def put(self, tracking_uri: str, run_id: str, path: str, content: bytes) -> None:
        """Writes one file."""

    def read(self, tracking_uri: str, run_id: str, path: str) -> bytes | None:
        """One file, or None."""


def _proxied(uri: str) -> str | None:
    """The path behind an ``mlflow-artifacts:`` URI; None where the server does not proxy it."""
    parts = urlsplit(uri)
    return parts.path.strip("/") if parts.scheme == "mlflow-artifacts" else None


def _run(values: Mapping[str, Any], experiment: str) -> Run:
    info, data = values["info"], values.get("data", {})
    return Run(
        run_id=info["run_id"],
        experiment=experiment,
        experiment_id=str(info["experiment_id"]),
        running=info["status"] == "RUNNING",
        started_ms=int(info["start_time"]),
        ended_ms=int(info["end_time"]) if info.get("end_time") else None,
        artifacts=info["artifact_uri"],
        tags={tag["key"]: tag["value"] for tag in data.get("tags", [])},
        params={param["key"]: param["value"] for param in data.get("params", [])},
        numbers={metric["key"]: float(metric["value"]) for metric in data.get("metrics", [])},
    )
