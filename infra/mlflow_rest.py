"""MLflow by plain REST: the few calls that must be quick and must not import mlflow."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from bentos.serving.errors import PermanentError, TransientError
from bentos.serving.fetch.download import API, DownloadError, NotFoundError, RegistryAway, Rest


class TransientMlflowError(TransientError):
    """MLflow is away or answered 5xx."""


class PermanentMlflowError(PermanentError):
    """MLflow refused the call; the message carries its own words."""


class UnknownToMlflowError(PermanentMlflowError):
    """MLflow says that the thing does not exist."""


class MlflowRest:
    """A tracking server and registry at *url* (``http://host:port``); *timeout* in seconds holds for each call.

    Credentials come from *environ* as for MLflow's own client: MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN.
    """

    def __init__(self, url: str, *, timeout: float = 5.0, environ: Mapping[str, str] = os.environ) -> None:
        self._rest = Rest(url.rstrip("/"), timeout, environ)

    def call(self, method: str, path: str, **values: Any) -> dict[str, Any]:
        """One call under ``/api/2.0/mlflow``; *values* go into the query of a GET and the JSON body of anything else.

        Raises TransientMlflowError when the server is away or answers 5xx, 408 or 429, UnknownToMlflowError where it has no
        such thing, PermanentMlflowError otherwise.
        """
        where = f"MLflow at {self._rest.url}: {method} {path}"
        try:
            return self._rest.call(method, API + path, **values)
        except RegistryAway as error:
            raise TransientMlflowError(f"{where}: {error}. Is it running? See 'shipway status'.") from error
        except NotFoundError as error:
            raise UnknownToMlflowError(f"{where}: {error}") from error
        except DownloadError as error:
            raise PermanentMlflowError(f"{where}: {error}") from error

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
        except UnknownToMlflowError:
            return 0
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
