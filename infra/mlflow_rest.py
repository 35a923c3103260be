"""MLflow by plain REST: the few calls that must be quick and must not import mlflow."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from bentos.serving.errors import PermanentError, TransientError

_API = "/api/2.0/mlflow"


class TransientMlflowError(TransientError):
    """MLflow is away or answered 5xx."""


class PermanentMlflowError(PermanentError):
    """MLflow refused the call; the message carries its own words."""


class MlflowRest:
    """A tracking server and registry at *url* (``http://host:port``).

    Credentials come from *environ* as for MLflow's own client: MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN. Use it
    as a context manager.
    """

    def __init__(self, url: str, *, timeout: float = 5.0, environ: Mapping[str, str] = os.environ) -> None:
        self.url = url.rstrip("/")
        token = environ.get("MLFLOW_TRACKING_TOKEN")
        user = environ.get("MLFLOW_TRACKING_USERNAME")
        auth = (user, environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None
        self._client = httpx.Client(
            base_url=self.url,
            timeout=timeout,
            auth=auth,
            headers={"authorization": f"Bearer {token}"} if token and not auth else {},
            # a proxy of the user's environment must not stand between processes of one machine
            trust_env=urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def call(self, method: str, path: str, **values: Any) -> dict[str, Any]:
        """One call under ``/api/2.0/mlflow``; *values* go into the query of a GET and the JSON body of anything else.

        Raises TransientMlflowError when the server is away or answers 5xx or 429, PermanentMlflowError otherwise.
        """
        where = f"MLflow at {self.url}: {method} {path}"
        try:
            if method == "GET":
                answer = self._client.get(_API + path, params=values)
            else:
                answer = self._client.request(method, _API + path, json=values)
        except httpx.HTTPError as error:
            raise TransientMlflowError(
                f"{where}: no answer ({error!r}). Is it running? See 'shipway status'."
            ) from error
        if answer.status_code >= 500 or answer.status_code == 429:
            raise TransientMlflowError(f"{where}: {answer.status_code} {answer.text[:300]}")
        if answer.status_code != 200:
            raise PermanentMlflowError(f"{where}: {answer.status_code} {answer.text[:300]}")
        try:
            found = answer.json()
        except ValueError as error:
            raise PermanentMlflowError(
                f"{where}: expected JSON, found {answer.text[:100]!r}. Is this MLflow?"
            ) from error
        return dict(found)

    def models(self) -> Iterator[dict[str, Any]]:
        """Every registered model as MLflow describes it: ``name``, ``aliases`` ([{alias, version}]), …."""
        token = ""
        while True:
            page = self.call("GET", "/registered-models/search", max_results=200, page_token=token)
            yield from page.get("registered_models", [])
            token = page.get("next_page_token", "")
            if not token:
                return

    def closed_releases(self, model: str, version: str, before: float | None = None) -> int:
        """How many releases of *version* the ledger holds that have ended (runs of ``releases/<model>`` not RUNNING); with
        *before* (unix seconds) only those that had begun by then."""
        begun = "" if before is None else f" and attributes.start_time < {round(before * 1000)}"
        try:
            experiment = self.call("GET", "/experiments/get-by-name", experiment_name=f"releases/{model}")
        except PermanentMlflowError as error:
            if "RESOURCE_DOES_NOT_EXIST" in str(error):
                return 0
            raise
        count, token = 0, ""
        while True:
            page = self.call(
                "POST",
                "/runs/search",
                experiment_ids=[experiment["experiment"]["experiment_id"]],
                filter=f"tags.`shipway.candidate` = '{version}' and attributes.status != 'RUNNING'{begun}",
                max_results=1000,
                page_token=token,
            )
            count += len(page.get("runs", []))
            token = page.get("next_page_token", "")
            if not token:
                return count
