"""A registered model version's files, fetched from an MLflow server by plain REST. No mlflow import.

MLflow's REST API: https://mlflow.org/docs/latest/api_reference/rest-api.html; artifacts through the server's own proxy
(``mlflow-artifacts:``), or from a folder both can see (``file:`` or a path).
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from bentos.serving.errors import PermanentError, TransientError

API = "/api/2.0/mlflow"
PROXY = "/api/2.0/mlflow-artifacts/artifacts"
TIMEOUT = 30.0  # seconds without an answer


class RegistryAway(TransientError):  # noqa: N818 it says what is so: the registry is away
    """The MLflow server does not answer, or answers 5xx or 429."""


class DownloadError(PermanentError):
    """What the registry names is not there or cannot be fetched."""


class NotServedError(DownloadError):
    """Artifacts in a store that only MLflow's own client knows how to read."""


def split_alias(uri: str) -> tuple[str, str]:
    """Name and alias of ``models:/name@alias``. Raises DownloadError for anything else."""
    found = re.fullmatch(r"models:/([^@]+)@([^@/]+)", uri)
    if found is None:
        raise DownloadError(f"--follow {uri!r}: expected models:/NAME@ALIAS")
    return found[1], found[2]


@dataclass(frozen=True)
class Rest:
    """An MLflow server, reached with the standard library alone."""

    url: str

    def version_of(self, model: str, alias: str) -> str:
        """The version *alias* of *model* names now. Raises DownloadError where there is none, RegistryAway."""
        found = self._get(f"{API}/registered-models/alias", name=model, alias=alias)
        return str(found["model_version"]["version"])

    def source_of(self, model: str, version: str) -> str:
        """Where the artifact tree of a version lies, as the registry names it. Raises DownloadError, RegistryAway."""
        found = self._get(f"{API}/model-versions/get-download-uri", name=model, version=version)
        return str(found["artifact_uri"])

    def fetch(self, uri: str, folder: Path) -> None:
        """The artifact tree at *uri* into *folder*. Raises NotServedError where it lies in another store than the
        server's own or a local folder, DownloadError, RegistryAway."""
        if uri.startswith("models:/m-"):
            logged = self._get(f"{API}/logged-models/{quote(uri.removeprefix('models:/'))}")
            uri = str(logged["model"]["info"]["artifact_uri"])
        elif uri.startswith("runs:/"):
            run, _, path = uri.removeprefix("runs:/").partition("/")
            uri = f"{self._get(f'{API}/runs/get', run_id=run)['run']['info']['artifact_uri']}/{path}"
        parts = urlsplit(uri)
        here = parts.netloc in ("", urlsplit(self.url).netloc)
        if parts.scheme == "mlflow-artifacts" and here:
            self._fetch_tree(unquote(parts.path).strip("/"), folder)
        elif parts.scheme in ("http", "https") and here and PROXY in parts.path:
            self._fetch_tree(unquote(parts.path).partition(PROXY)[2].strip("/"), folder)
        elif parts.scheme in ("file", ""):
            _copy_tree(Path(unquote(parts.path)), folder)
        else:
            raise NotServedError(
                f"the artifacts are at {uri}; expected an MLflow server that serves them itself (--serve-artifacts)"
            )

    def _fetch_tree(self, root: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for entry in self._get(PROXY, path=root).get("files", []):
            name = PurePosixPath(str(entry["path"])).name
            if name in ("", ".", ".."):
                raise DownloadError(f"{root}: the registry lists the file name {entry['path']!r}")
            if entry.get("is_dir"):
                self._fetch_tree(f"{root}/{name}", folder / name)
                continue
            with self._open(f"{PROXY}/{quote(f'{root}/{name}')}") as answer, (folder / name).open("wb") as file:
                shutil.copyfileobj(answer, file)

    def _get(self, endpoint: str, /, **query: str) -> dict[str, Any]:
        where = f"{endpoint}?{urlencode(query)}" if query else endpoint
        with self._open(where) as answer:
            try:
                found = json.loads(answer.read())
            except ValueError as error:
                raise DownloadError(f"{self.url}{where}: expected JSON as an MLflow server answers: {error}") from error
        if not isinstance(found, dict):
            raise DownloadError(f"{self.url}{where}: expected a JSON object, found {type(found).__name__}")
        return found

    def _open(self, where: str) -> Any:
        if not self.url.startswith(("http://", "https://")):
            raise DownloadError(f"registry {self.url!r}: expected http://… or https://…")
        request = urllib.request.Request(self.url.rstrip("/") + where, headers=_authorization())  # noqa: S310 checked above
        try:
            return urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310 checked above
        except urllib.error.HTTPError as error:
            with error:
                text = error.read(300).decode("utf-8", "replace")
            kind = RegistryAway if error.code >= 500 or error.code == 429 else DownloadError
            raise kind(f"{self.url}{where}: the registry answered {error.code}: {text}") from error
        except (OSError, ValueError) as error:
            raise RegistryAway(f"{self.url}: the registry does not answer: {error}") from error


def _authorization() -> dict[str, str]:
    """MLflow's own variables: MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and _PASSWORD."""
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    if user := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        secret = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
        return {"Authorization": "Basic " + base64.b64encode(secret.encode()).decode()}
    return {}


def _copy_tree(source: Path, folder: Path) -> None:
    try:
        shutil.copytree(source, folder, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        raise DownloadError(f"{source}: the artifacts cannot be copied: {error}") from error
