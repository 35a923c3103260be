"""PostgreSQL databases of the stack's own servers: their URLs with drivers, and a proof that they can be used."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from infra.settings import StackSettings
from infra.stack.part import StackError

if TYPE_CHECKING:
    from sqlalchemy import URL

DRIVERS = {"mlflow_database": "psycopg2", "prefect_database": "asyncpg"}
_CONNECT_SECONDS = 5
_MAY = "SELECT current_schema(), coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)"
_EXAMPLE = "expected postgresql://user:password@host:port/name"


@dataclass(frozen=True, repr=False)
class Database:
    """One database. *url* has its driver and its password: never show it; ``str`` is for people."""

    setting: str
    url: str
    environment: Mapping[str, str] = field(default_factory=dict)  # what the driver reads beside the URL

    def __str__(self) -> str:
        from sqlalchemy import make_url

        url = make_url(self.url).set(query={})  # a query may hold a password too
        return f"{self.setting}={url.render_as_string()}"

    __repr__ = __str__


def database_of(settings: StackSettings, name: str) -> Database | None:
    """The database that the setting *name* gives; None: SQLite. Raises StackError or SettingsError, without the password."""
    text = settings.secret(name)
    if text is None:
        return None
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    setting, driver = f"SHIPWAY_{name.upper()}", DRIVERS[name]
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # its message may quote the password
        raise StackError(
            f"{setting} is no URL of a database; {_EXAMPLE}, special characters percent-encoded."
        ) from None
    if url.drivername not in ("postgresql", "postgres", f"postgresql+{driver}"):
        raise StackError(f"{setting} is of kind {url.drivername!r}; {_EXAMPLE} (or postgresql+{driver}://).")
    if not url.database:
        raise StackError(f"{setting} names no database; {_EXAMPLE}.")
    url, environment = _for_driver(url.set(drivername=f"postgresql+{driver}"), driver)
    return Database(setting, url.render_as_string(hide_password=False), environment)


def _for_driver(url: URL, driver: str) -> tuple[URL, dict[str, str]]:
    """libpq's own words for TLS in asyncpg's, so that one form of URL is right for both."""
    if driver != "asyncpg":
        return url, {}
    query, environment = dict(url.query), {}
    if "sslmode" in query:
        query["ssl"] = query.pop("sslmode")
    for word, variable in (("sslrootcert", "PGSSLROOTCERT"), ("sslcert", "PGSSLCERT"), ("sslkey", "PGSSLKEY")):
        if word in query:
            environment[variable] = str(query.pop(word))
    return url.set(query=query), environment


def check_databases(databases: list[Database]) -> None:
    """Connects to each and proves that its user may make tables. Raises StackError that names the setting.

    Two servers in one database are refused: both keep the state of their migrations in a table of the same name.
    """
    places = {_place(database): database for database in databases}
    if len(places) < len(databases):
        raise StackError(
            f"{' and '.join(database.setting for database in databases)} name the same database; expected one each, since "
            "MLflow and Prefect both keep a table alembic_version. Make a second database."
        )
    for database in databases:
        schema, may = _ask(database)
        if not may:
            raise StackError(
                f"{database}: its user may not make tables in schema {schema or '(none)'}. Let it: "
                "ALTER DATABASE … OWNER TO …, or GRANT CREATE ON SCHEMA … TO …."
            )


def _place(database: Database) -> tuple[object, ...]:
    from sqlalchemy import make_url

    url = make_url(database.url)
    return url.host, url.port or 5432, url.database, tuple(sorted(url.query.items()))


def _ask(database: Database) -> tuple[str | None, bool]:
    """The schema that tables go to and whether they may be made, asked through the driver that the server uses."""
    from sqlalchemy import make_url

    url = make_url(database.url)
    try:
        found = (
            asyncio.run(_ask_asyncpg(url, database.environment)) if "asyncpg" in url.drivername else _ask_psycopg2(url)
        )
    except ModuleNotFoundError as error:
        raise StackError(f"{database} needs {error.name}: install shipway with its extra postgresql.") from error
    except Exception as error:  # whatever a driver raises is a database that cannot be used
        said = str(getattr(error, "orig", None) or error or repr(error)).strip().partition("\n")[0]
        for secret in filter(None, (url.password, *(url.query.get(word) for word in ("password", "sslpassword")))):
            said = said.replace(str(secret), "***")
        raise StackError(
            f"{database} cannot be used: {said}. Correct the variable, or start the database; 'shipway up' then goes on."
        ) from None
    return found


def _ask_psycopg2(url: URL) -> tuple[str | None, bool]:
    from sqlalchemy import NullPool, create_engine

    engine = create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": _CONNECT_SECONDS})
    with engine.connect() as connection:
        schema, may = connection.exec_driver_sql(_MAY).one()
    return schema, bool(may)


async def _ask_asyncpg(url: URL, environment: Mapping[str, str]) -> tuple[str | None, bool]:
    import os

    from sqlalchemy import NullPool
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(url, poolclass=NullPool, connect_args={"timeout": _CONNECT_SECONDS})
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        async with engine.connect() as connection:
            schema, may = (await connection.exec_driver_sql(_MAY)).one()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        await engine.dispose()
    return schema, bool(may)
