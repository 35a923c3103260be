"""PrefectRuns: Prefect behind the receiver's seam, and behind reconcile."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

import anyio.to_thread
import httpx

from bentos.serving.errors import ShipwayError
from infra.mlflow_rest import MlflowRest, PermanentMlflowError, TransientMlflowError
from infra.receiver.flow_runs import RunRefusedError, RunsUnavailable, StartedRun

DEPLOYMENT = "promote-model/local"
TIMEOUT_SECONDS = 5.0


class PrefectRuns:
    """Starts ``promote-model/local`` once per attempt, over the REST API of Prefect at *prefect_api*.

    The attempt is how many releases of the version the ledger in MLflow at *mlflow* holds that have ended, of those that had
    begun when somebody asked. A webhook sent twice or late, and a reconcile that finds the same challenger, therefore mean the same run; a challenger that is set again
    after its release ended means a new one. REST instead of Prefect's client: no import of prefect (1.5 s, 60 MB) in the
    receiver, no retries behind its back, and the status that tells a new run (201) from an old one (200). Credentials are
    the client's own: PREFECT_API_KEY or PREFECT_API_AUTH_STRING in *environ*.
    """

    def __init__(
        self,
        prefect_api: str,
        mlflow: str,
        *,
        deployment: str = DEPLOYMENT,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._api = prefect_api.rstrip("/")
        self._mlflow = mlflow
        self._deployment = deployment
        self._environ = environ

    async def start(self, model: str, version: str, asked_at: float) -> StartedRun:
        """``start_now`` without blocking the event loop."""
        return await anyio.to_thread.run_sync(self.start_now, model, version, asked_at)

    def start_now(self, model: str, version: str, asked_at: float | None = None) -> StartedRun:
        """The run that promotes *version* of *model*, started unless its key already did; *asked_at* as in ``FlowRuns``,
        None: now.

        Raises RunsUnavailable while Prefect, its deployment or MLflow is away, RunRefusedError where either says no.
        """
        key = self.key(model, version, asked_at)
        with self._client() as client:
            deployment = self._deployment_id(client)
            answer = self._send(
                client,
                "POST",
                f"/deployments/{deployment}/create_flow_run",
                {"parameters": {"model": model, "version": version}, "idempotency_key": key},
            )
        return StartedRun(str(answer.json()["id"]), created=answer.status_code == 201)

    def key(self, model: str, version: str, asked_at: float | None = None) -> str:
        """The idempotency key of the next release: ``promote:<model>:<version>:<attempt>``. Raises as ``start_now``."""
        try:
            rest = MlflowRest(self._mlflow, timeout=TIMEOUT_SECONDS, environ=self._environ)
            attempt = rest.closed_releases(model, version, asked_at)
        except TransientMlflowError as error:
            raise RunsUnavailable(f"release of {model}/{version}: {error}") from error
        except PermanentMlflowError as error:
            raise RunRefusedError(f"release of {model}/{version}: {error}") from error
        return f"promote:{model}:{version}:{attempt}"

    def _deployment_id(self, client: httpx.Client) -> str:
        flow, _, name = self._deployment.partition("/")
        answer = self._send(client, "GET", f"/deployments/name/{quote(flow)}/{quote(name)}")
        return str(answer.json()["id"])

    def _send(
        self, client: httpx.Client, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> httpx.Response:
        what = f"Prefect at {self._api}: {method} {path}"
        try:
            answer = client.request(method, self._api + path, json=body)
        except httpx.HTTPError as error:
            raise RunsUnavailable(f"{what}: no answer ({error!r}). See 'shipway status'.") from error
        if answer.is_success:
            return answer
        says = f"{what}: {answer.status_code} {answer.text[:300]}"
        raise self._refusal(answer.status_code, says)

    def _refusal(self, status: int, says: str) -> ShipwayError:
        if status == 404:  # while `shipway up` is still applying prefect.yaml
            return RunsUnavailable(f"{says}. Is {self._deployment} deployed? 'shipway up' does it.")
        if status >= 500 or status in (408, 429):
            return RunsUnavailable(says)
        return RunRefusedError(says)

    def _client(self) -> httpx.Client:
        key, pair = self._environ.get("PREFECT_API_KEY"), self._environ.get("PREFECT_API_AUTH_STRING", "")
        user, _, password = pair.partition(":")
        return httpx.Client(
            timeout=TIMEOUT_SECONDS,
            auth=(user, password) if pair else None,
            headers={"authorization": f"Bearer {key}"} if key else {},
            trust_env=urlsplit(self._api).hostname not in ("127.0.0.1", "localhost", "::1"),
        )
