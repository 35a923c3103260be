"""The stores that the settings name: where reports and the compacted prediction log go, and MLflow's artifacts."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from pydantic import SecretStr

from infra.settings import SettingsError, StackSettings
from infra.stores.folder import FolderStore
from infra.stores.interface import Store, StoreError
from infra.stores.s3 import S3Access, S3Store

REPORTS = "reports"
PREDICTIONS = "predictions"


def s3_access(settings: StackSettings) -> S3Access:
    """How the settings reach S3, the keys read. Raises SettingsError."""
    access_key, secret_key = settings.secret("s3_access_key"), settings.secret("s3_secret_key")
    if (access_key is None) != (secret_key is None):
        raise SettingsError("SHIPWAY_S3_ACCESS_KEY and SHIPWAY_S3_SECRET_KEY: one is set without the other. Set both.")
    if settings.s3_ca_file is not None and not settings.s3_ca_file.expanduser().is_file():
        raise SettingsError(f"SHIPWAY_S3_CA_FILE={settings.s3_ca_file}: no such file; expected certificates in PEM.")
    return S3Access(
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        access_key=None if access_key is None else SecretStr(access_key),
        secret_key=None if secret_key is None else SecretStr(secret_key),
        ca_file=None if settings.s3_ca_file is None else settings.s3_ca_file.expanduser().absolute(),
    )


def reports_url(settings: StackSettings) -> str | None:
    """Where reports are kept in S3; None: in a folder of the home."""
    return None if settings.store is None else f"{settings.store.rstrip('/')}/{REPORTS}"


def report_store(settings: StackSettings) -> Store:
    """Where reports are kept. Raises SettingsError."""
    url = reports_url(settings)
    return FolderStore(settings.reports) if url is None else S3Store(url, s3_access(settings))


def log_store(settings: StackSettings) -> Store | None:
    """Where the compacted prediction log is kept; None: in a folder of the home. Raises SettingsError."""
    if settings.store is None:
        return None
    return S3Store(f"{settings.store.rstrip('/')}/{PREDICTIONS}", s3_access(settings))


def check_buckets(settings: StackSettings) -> None:
    """Proves that what SHIPWAY_STORE and SHIPWAY_ARTIFACTS name can be used. Raises SettingsError, StoreError naming it."""
    for name, url in (("SHIPWAY_STORE", settings.store), ("SHIPWAY_ARTIFACTS", settings.artifacts)):
        if url is None:
            continue
        try:
            S3Store(url, s3_access(settings)).check()
        except StoreError as error:
            where = f" at SHIPWAY_S3_ENDPOINT={settings.s3_endpoint}" if settings.s3_endpoint else ""
            raise type(error)(f"{name}{where}: {error}") from error


def s3_environment(settings: StackSettings, environ: Mapping[str, str]) -> dict[str, str]:
    """What a server with *environ* needs beside it to reach S3 as the settings say. Raises SettingsError."""
    access = s3_access(settings)
    values: dict[str, str] = {}
    if access.access_key is not None and access.secret_key is not None:
        values["AWS_ACCESS_KEY_ID"] = access.access_key.get_secret_value()
        values["AWS_SECRET_ACCESS_KEY"] = access.secret_key.get_secret_value()
        values["AWS_SESSION_TOKEN"] = ""  # the shell's own belongs to other keys
    if access.region is not None:
        values["AWS_DEFAULT_REGION"] = access.region
    if access.ca_file is not None:
        values["AWS_CA_BUNDLE"] = str(access.ca_file)
    if access.endpoint is not None:
        values |= {
            "MLFLOW_S3_ENDPOINT_URL": access.endpoint,
            "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": "path",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }
        if (host := urlsplit(access.endpoint).hostname) in ("127.0.0.1", "localhost", "::1"):
            for name in ("NO_PROXY", "no_proxy"):
                values[name] = ",".join(filter(None, (environ.get(name), host)))
    return values
