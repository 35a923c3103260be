"""Registry: model versions, aliases and artifacts of an MLflow server, behind our own nouns.

Everything goes by MLflow's plain REST interface (milliseconds, no mlflow import) but downloads from artifact stores that
the MLflow server does not serve itself, and of a run's files: those use MLflow's client (imported on first use, about 2 s).

    RegistryError
    ├── TransientRegistryError   MLflow is away, busy or answers 5xx
    └── PermanentRegistryError   unknown model, version or alias; a name that cannot be released; broken artifacts

REST reference: https://mlflow.org/docs/latest/api_reference/rest-api.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bentos.serving.errors import PermanentError, ShipwayError, TransientError, brief
from bentos.serving.fetch.artifact_tree import flavor_of, has_signature, python_version_of, requirements_of
from bentos.serving.fetch.download import API, DownloadError, NotFoundError, NotServedError, RegistryAway, Rest
from bentos.serving.fetch.model_store import ModelStore, TamperedModelError
from bentos.serving.files import is_about_the_disk, writable
from bentos.serving.inputs.signature import SignatureError, read_mlmodel
from bentos.versions.model_version import ModelVersion

NAME = re.compile(r"[A-Za-z0-9._-]+")
CHAMPION = "champion"


class RegistryError(ShipwayError):
    """Base of what the registry raises."""


class TransientRegistryError(RegistryError, TransientError):
    """MLflow cannot be reached or failed by itself; the same call may succeed later."""


class PermanentRegistryError(RegistryError, PermanentError):
    """What was asked for is not in the registry, or its artifacts cannot be used."""


class _NotFoundError(PermanentRegistryError):
    """MLflow says that the thing does not exist."""


class Registry:
    """The model registry at *tracking_uri* (``http://…``), with downloaded trees kept in a ModelStore at *cache*, and files of
    runs in ``<cache>/runs/<run id>``.

    Safe to use from several processes at once: every file in the cache is made by a rename. *timeout* is in seconds and
    holds for each REST call, not for downloads.
    """

    def __init__(self, tracking_uri: str, cache: Path, *, timeout: float = 10.0) -> None:
        if not tracking_uri.startswith(("http://", "https://")):
            raise PermanentRegistryError(
                f"registry: the tracking URI is {tracking_uri!r}, expected http://… or https://…: aliases and webhooks need"
                " an MLflow server. Start one with `shipway up`, or set MLFLOW_TRACKING_URI to yours."
            )
        self.tracking_uri = tracking_uri.rstrip("/")
        self.cache = cache.absolute()
        self._store = ModelStore(cache)
        self._rest = Rest(self.tracking_uri, timeout)

    # What exists

    def models(self) -> list[str]:
        """The names of all registered models, sorted."""
        return sorted(str(item["name"]) for item in self._all("registered-models/search", "registered_models"))

    def versions(self, model: str) -> list[str]:
        """The versions of *model*, oldest first. Raises PermanentRegistryError for an unknown model."""
        self._model(model)
        found = self._all("model-versions/search", "model_versions", filter=f"name='{model}'")
        return [str(number) for number in sorted(int(item["version"]) for item in found)]

    def aliases(self, model: str) -> dict[str, str]:
        """Alias → version of *model*. Raises PermanentRegistryError for an unknown model."""
        return {str(item["alias"]): str(item["version"]) for item in self._model(model).get("aliases", [])}

    def champion(self, model: str) -> str | None:
        """The version that the alias ``champion`` names, None where there is none."""
        return self.aliases(model).get(CHAMPION)

    # Aliases

    def set_alias(self, model: str, alias: str, version: str) -> None:
        """Points *alias* of *model* at *version*; setting it again changes nothing."""
        self._version(model, version)
        if self.aliases(model).get(alias) != version:
            self._call("POST", "registered-models/alias", name=model, alias=alias, version=version)

    def delete_alias(self, model: str, alias: str) -> None:
        """Removes *alias* of *model*; an alias that is not there is no error (and sends no webhook)."""
        if alias in self.aliases(model):
            self._call("DELETE", "registered-models/alias", name=model, alias=alias)

    # Versions and their artifacts

    def resolve(self, model: str, *, version: str | None = None, alias: str | None = None) -> ModelVersion:
        """The model version that *version* or *alias* (exactly one of them) names, its artifact tree downloaded and digested.

        Raises PermanentRegistryError naming what exists, SignatureError with the line of code that would add a signature,
        TransientRegistryError when MLflow is away.
        """
        if (version is None) == (alias is None):
            raise ValueError(
                f"{model}: exactly one of version and alias must be given, found {version!r} and {alias!r}"
            )
        known = self.aliases(model)
        if alias is not None:
            if alias not in known:
                found = ", ".join(f"{name} → {number}" for name, number in sorted(known.items())) or "none"
                raise PermanentRegistryError(
                    f"model {model}: no alias {alias!r}; aliases: {found}. Set one with"
                    f" `MlflowClient().set_registered_model_alias({model!r}, {alias!r}, version)`, or name a version."
                )
            version = known[alias]
        assert version is not None
        described = self._version(model, version)
        return _model_version(described, self._pull(model, version, str(described.get("source", ""))), known)

    def fetch(self, mv: ModelVersion) -> Path:
        """The folder of the artifact tree of *mv*, checked against its digest; downloaded again where it does not match.

        Raises PermanentRegistryError where the registry's bytes are no longer those that *mv* was resolved from.
        """
        return self._pull(mv.model, mv.version, mv.source, mv.digest)

    def run_artifact(self, run_id: str, path: str) -> Path | None:
        """The artifact *path* (a file) of the run *run_id*, downloaded; None where the run has no such artifact.

        Raises PermanentRegistryError for an unknown run.
        """
        self._call("GET", "runs/get", run_id=run_id, what=f"run {run_id}")
        parent = path.rpartition("/")[0]
        listed = self._call("GET", "artifacts/list", run_id=run_id, **({"path": parent} if parent else {}))
        if not any(item["path"] == path and not item.get("is_dir") for item in listed.get("files", [])):
            return None
        target = self.cache / "runs" / run_id / path
        if not target.exists():
            with writable(self.cache, "a run's artifact"), self._store.partial() as folder:
                source = self._fetch_into(folder, run_id=run_id, path=path, what=f"run {run_id}: artifact {path}")
                target.parent.mkdir(parents=True, exist_ok=True)
                source.replace(target)
        return target

    # Behind the door

    def _pull(self, model: str, version: str, source: str, digest: str | None = None) -> Path:
        """The tree of a version from the store, of *digest* where that is given."""

        def fetch(_: str, tree: Path) -> None:
            self._download(model, version, tree)

        try:
            return self._store.pull(self.tracking_uri, model, version, digest, source=source, fetch=fetch)
        except TamperedModelError as error:
            raise PermanentRegistryError(f"model {error}") from error

    def _download(self, model: str, version: str, tree: Path) -> None:
        """A version's files into *tree*: by plain REST where the server itself keeps them, else by MLflow's client."""
        answer = self._call("GET", "model-versions/get-download-uri", name=model, version=version)
        uri = str(answer.get("artifact_uri", ""))
        what = f"model {model}/{version}: artifacts at {uri}"
        try:
            Rest(self.tracking_uri).fetch(uri, tree)
        except NotServedError:
            self._fetch_into(tree.parent, uri=uri, what=what).rename(tree)
        except (DownloadError, RegistryAway, OSError) as error:
            raise self._undownloadable(error, what) from error
        if not (tree / "MLmodel").is_file():
            found = ", ".join(sorted(entry.name for entry in tree.iterdir())[:10]) or "nothing"
            raise PermanentRegistryError(
                f"model {model}/{version}: no MLmodel file at {uri}, found {found}. The artifacts are missing or"
                " damaged: log and register the model again."
            )

    def _undownloadable(self, error: Exception, what: str) -> Exception:
        """What a failed download comes to; raises TransientRegistryError where MLflow is away."""
        full = is_about_the_disk(error)
        if full is not None:
            return full
        self._call("GET", "registered-models/search", max_results="1")  # away? then that is the error
        return PermanentRegistryError(
            f"{what}: cannot be downloaded: {brief(error)}. The files are missing or damaged: log and register the"
            " model again."
        )

    def _fetch_into(
        self, folder: Path, *, what: str, uri: str | None = None, run_id: str | None = None, path: str | None = None
    ) -> Path:
        """MLflow's own download of an artifact URI or of a run's artifact, below *folder*."""
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        try:
            return Path(
                download_artifacts(
                    artifact_uri=uri,
                    run_id=run_id,
                    artifact_path=path,
                    dst_path=str(folder / "download"),
                    tracking_uri=self.tracking_uri,
                    registry_uri=self.tracking_uri,
                )
            )
        except (MlflowException, OSError) as error:
            raise self._undownloadable(error, what) from error

    def _model(self, model: str) -> dict[str, Any]:
        if not NAME.fullmatch(model) or set(model) == {"."}:
            raise PermanentRegistryError(
                f"model {model!r}: this name cannot be released, because it becomes part of paths and URLs; expected only"
                " letters, digits, '.', '_' and '-'. Register the model under such a name."
            )
        try:
            return dict(self._call("GET", "registered-models/get", name=model)["registered_model"])
        except _NotFoundError as error:
            names = self.models()
            found = ", ".join(names[:20]) + (", …" if len(names) > 20 else "") if names else "none"
            raise PermanentRegistryError(
                f"model {model}: not in the registry at {self.tracking_uri}; registered models: {found}. Register it with"
                f" `mlflow.register_model(model_uri, {model!r})`."
            ) from error

    def _version(self, model: str, version: str) -> dict[str, Any]:
        known = self.versions(model)
        if version not in known:
            raise PermanentRegistryError(
                f"model {model}: no version {version!r}; versions: {', '.join(known[-20:]) or 'none'}."
                " Name one of them, or register a new one."
            )
        described = self._call("GET", "model-versions/get", name=model, version=version)
        return dict(described["model_version"])

    def _call(self, method: str, path: str, /, *, what: str = "", **values: str) -> dict[str, Any]:
        """One REST call; *what* is asked for, in an error's words."""
        where = f"registry {self.tracking_uri}: {what or f'{method} {path}'}"
        try:
            return self._rest.call(method, f"{API}/{path}", **values)
        except RegistryAway as error:
            raise TransientRegistryError(f"{where}: {error}. Is it up? `shipway status` says so.") from error
        except NotFoundError as error:
            raise _NotFoundError(f"{where}: {error}") from error
        except DownloadError as error:
            raise PermanentRegistryError(f"{where}: {error}") from error

    def _all(self, path: str, items: str, /, **values: str) -> Iterator[dict[str, Any]]:
        """The *items* of every page."""
        token = ""
        while True:
            page = self._call("GET", path, max_results="200", page_token=token, **values)
            yield from page.get(items, [])
            token = page.get("next_page_token", "")
            if not token:
                return


def _model_version(described: Mapping[str, Any], folder: Path, aliases: Mapping[str, str]) -> ModelVersion:
    model, version = str(described["name"]), str(described["version"])
    name = f"{model}/{version}"
    try:
        mlmodel = read_mlmodel(folder)
    except SignatureError as error:
        raise PermanentRegistryError(f"model {name}: nothing can load it: {error}, and register that.") from error
    if not has_signature(mlmodel):
        raise SignatureError(
            f"model {name}: no signature, so requests cannot be checked against anything. Log it again with one:"
            " `mlflow.<flavor>.log_model(model, name=…, signature=infer_signature(X, model.predict(X)))`, where"
            " `from mlflow.models import infer_signature`; or add one in place:"
            f" `mlflow.models.set_signature({str(described.get('source', ''))!r}, infer_signature(X, y))` and register that."
        )
    return ModelVersion(
        model=model,
        version=version,
        run_id=str(described["run_id"]) if described.get("run_id") else None,
        source=str(described.get("source", "")),
        flavor=flavor_of(mlmodel),
        digest=f"sha256:{folder.name}",
        requirements=requirements_of(folder),
        python_version=python_version_of(mlmodel),
        aliases=tuple(sorted(alias for alias, number in aliases.items() if number == version)),
        tags={str(tag["key"]): str(tag["value"]) for tag in described.get("tags", [])},
    )
