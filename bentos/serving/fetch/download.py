"""An MLflow server by plain REST: its registry, and the files of a registered version. No mlflow import.

MLflow's REST API: https://mlflow.org/docs/latest/api_reference/rest-api.html; artifacts through the server's own proxy
(``mlflow-artifacts:``), or from a folder both can see (``file:`` or a path).
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from bentos.serving.egress import HINT, UNKNOWN_ISSUER, tls
from bentos.serving.errors import PermanentError, ShipwayError, TransientError

API = "/api/2.0/mlflow"
PROXY = "/api/2.0/mlflow-artifacts/artifacts"
TIMEOUT = 30.0  # seconds without an answer
LOCAL = ("127.0.0.1", "localhost", "::1")
_MISSING = ("RESOURCE_DOES_NOT_EXIST", "RESOURCE_NOT_FOUND")


class RegistryAway(TransientError):  # noqa: N818 it says what is so: the registry is away
    """The MLflow server does not answer, or answers 5xx, 408 or 429."""


class DownloadError(PermanentError):
    """What the registry names is not there or cannot be fetched."""


class NotFoundError(DownloadError):
    """MLflow says that the thing does not exist."""


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
    """An MLflow server, reached with the standard library alone. *timeout* is seconds without an answer; the login is what
    *environ* says for MLflow's own client."""

    url: str
    timeout: float = TIMEOUT
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def version_of(self, model: str, alias: str) -> str:
        """The version *alias* of *model* names now. Raises DownloadError where there is none, RegistryAway."""
        found = self.call("GET", f"{API}/registered-models/alias", name=model, alias=alias)
        return str(found["model_version"]["version"])

    def source_of(self, model: str, version: str) -> str:
        """Where the artifact tree of a version lies, as the registry names it. Raises DownloadError, RegistryAway."""
        found = self.call("GET", f"{API}/model-versions/get-download-uri", name=model, version=version)
        return str(found["artifact_uri"])

    def fetch(self, uri: str, folder: Path) -> None:
        """The artifact tree at *uri* into *folder*. Raises NotServedError where it lies in another store than the
        server's own or a local folder, DownloadError, RegistryAway."""
        if uri.startswith("models:/m-"):
            logged = self.call("GET", f"{API}/logged-models/{quote(uri.removeprefix('models:/'))}")
            uri = str(logged["model"]["info"]["artifact_uri"])
        elif uri.startswith("runs:/"):
            run, _, path = uri.removeprefix("runs:/").partition("/")
            found = self.call("GET", f"{API}/runs/get", run_id=run)
            uri = f"{found['run']['info']['artifact_uri']}/{path}"
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
        for entry in self.call("GET", PROXY, path=root).get("files", []):
            name = PurePosixPath(str(entry["path"])).name
            if name in ("", ".", ".."):
                raise DownloadError(f"{root}: the registry lists the file name {entry['path']!r}")
            if entry.get("is_dir"):
                self._fetch_tree(f"{root}/{name}", folder / name)
                continue
            with self._open("GET", f"{PROXY}/{quote(f'{root}/{name}')}") as answer, (folder / name).open("wb") as file:
                shutil.copyfileobj(answer, file)

    def call(self, method: str, endpoint: str, /, **values: Any) -> dict[str, Any]:
        """The JSON object that *endpoint* answers; *values* are the query of a GET, and the JSON body of anything else.

        Raises NotFoundError where MLflow has no such thing, DownloadError where it refuses otherwise, RegistryAway.
        """
        query = f"?{urlencode(values)}" if method == "GET" and values else ""
        with self._open(method, endpoint + query, None if method == "GET" else json.dumps(values).encode()) as answer:
            try:
                found = json.loads(answer.read())
            except ValueError as error:
                raise DownloadError(f"{self.url}{endpoint}: expected JSON as MLflow answers: {error}") from error
            except (OSError, HTTPException) as error:
                raise RegistryAway(f"{self.url}: the registry does not answer to its end: {error}") from error
        if not isinstance(found, dict):
            raise DownloadError(f"{self.url}{endpoint}: expected a JSON object, found {type(found).__name__}")
        return found

    def _open(self, method: str, where: str, body: bytes | None = None) -> Any:
        if not self.url.startswith(("http://", "https://")):
            raise DownloadError(f"registry {self.url!r}: expected http://… or https://…")
        headers = _authorization(self.environ) | ({} if body is None else {"Content-Type": "application/json"})
        request = urllib.request.Request(self.url.rstrip("/") + where, body, headers, method=method)  # noqa: S310 checked above
        try:
            opener = _opener(
                urlsplit(self.url).hostname in LOCAL, tls(self.environ) if self.url[:6] == "https:" else None
            )
            return opener.open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            said = b""
            with error, suppress(OSError, HTTPException):
                said = error.read(65536)
            raise _refusal(f"{self.url}{where}: the registry answered", error.code, said) from error
        except (OSError, HTTPException, ValueError) as error:
            hint = f". {HINT}" if any(sign in str(error) for sign in UNKNOWN_ISSUER) else ""
            raise RegistryAway(f"{self.url}: the registry does not answer: {error}{hint}") from error


def _opener(local: bool, trusted: ssl.SSLContext | None) -> urllib.request.OpenerDirector:
    """No proxy of the environment stands between processes of one machine."""
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})] if local else []
    if trusted is not None:
        handlers.append(urllib.request.HTTPSHandler(context=trusted))
    return urllib.request.build_opener(*handlers)


def _refusal(what: str, status: int, body: bytes) -> ShipwayError:
    """The error for an answer that is no success, with MLflow's own code and words."""
    try:
        problem = json.loads(body)
        code, message = str(problem.get("error_code", "")), str(problem.get("message", ""))
    except (ValueError, AttributeError):
        code, message = "", body[:300].decode("utf-8", "replace")
    text = f"{what} {status} {code}: {message}"
    if status >= 500 or status in (408, 429):
        return RegistryAway(text)
    if code in _MISSING or status == 404:
        return NotFoundError(text)
    if status in (401, 403):
        return DownloadError(f"{text}. Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or _TOKEN.")
    return DownloadError(text)


def _authorization(environ: Mapping[str, str]) -> dict[str, str]:
    """MLflow's own variables, as its own client reads them: MLFLOW_TRACKING_USERNAME and _PASSWORD, else _TOKEN."""
    if user := environ.get("MLFLOW_TRACKING_USERNAME"):
        secret = f"{user}:{environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
        return {"Authorization": "Basic " + base64.b64encode(secret.encode()).decode()}
    token = environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _copy_tree(source: Path, folder: Path) -> None:
    try:
        shutil.copytree(source, folder, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        raise DownloadError(f"{source}: the artifacts cannot be copied: {error}") from error
