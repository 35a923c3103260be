"""The databases and buckets that the settings name, proved before anything is started."""

from __future__ import annotations

from infra.settings import StackSettings
from infra.stack.databases import check_databases, database_of
from infra.stack.part import StackError


def check_stores(settings: StackSettings, *, own_mlflow: bool, own_prefect: bool) -> None:
    """Raises StackError or SettingsError that names the setting at fault and shows no secret.

    *own_mlflow* and *own_prefect*: whether the stack runs these servers itself; a database for a server that it does not
    run is refused, because it would silently not be used.
    """
    for own, setting, value, variable in (
        (own_mlflow, "SHIPWAY_MLFLOW_DATABASE", settings.mlflow_database, "MLFLOW_TRACKING_URI"),
        (own_mlflow, "SHIPWAY_ARTIFACTS", settings.artifacts, "MLFLOW_TRACKING_URI"),
        (own_prefect, "SHIPWAY_PREFECT_DATABASE", settings.prefect_database, "PREFECT_API_URL"),
    ):
        if value is not None and not own:
            raise StackError(
                f"{setting} is of the stack's own server, and {variable} names another. Unset one of them."
            )
    names = [name for name in ("mlflow_database", "prefect_database") if getattr(settings, name) is not None]
    check_databases([found for name in names if (found := database_of(settings, name)) is not None])
    if settings.store is None and settings.artifacts is None:
        return
    from infra.stores.configured import check_buckets
    from infra.stores.interface import StoreError

    try:
        check_buckets(settings)
    except StoreError as error:
        raise StackError(str(error)) from error
