"""Databases of MLflow and Prefect, proved on a real PostgreSQL; no message shows a password."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infra.settings import load_settings
from infra.stack.databases import Database, check_databases, database_of
from infra.stack.part import StackError
from infra.stack.stores import check_stores
from tests.infra.stores.servers import PASSWORD, POSTGRES, QUOTED, Postgres, postgres_server

VARIABLES = {"mlflow_database": "SHIPWAY_MLFLOW_DATABASE", "prefect_database": "SHIPWAY_PREFECT_DATABASE"}
both = pytest.mark.parametrize("name", VARIABLES)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    if not POSTGRES.is_dir():
        pytest.skip("no PostgreSQL server is installed (Debian's package postgresql)")
    with postgres_server("mlflow", "prefect") as made:
        yield made


def database(name: str, url: str) -> Database:
    found = database_of(load_settings({VARIABLES[name]: url}), name)
    assert found is not None
    return found


def refusal(name: str, url: str) -> str:
    with pytest.raises(StackError) as told:
        check_databases([database(name, url)])
    said = str(told.value)
    assert VARIABLES[name] in said
    assert not any(secret in said for secret in (PASSWORD, QUOTED, "s3cret"))
    return said


def test_each_server_gets_its_own_driver():
    url = "postgresql://u:p%40@h:5433/d"
    assert database("mlflow_database", url).url == "postgresql+psycopg2://u:p%40@h:5433/d"
    assert database("prefect_database", url).url == "postgresql+asyncpg://u:p%40@h:5433/d"
    assert "p%40" not in f"{database('mlflow_database', url)!r}"
    assert database_of(load_settings({}), "mlflow_database") is None


def test_one_form_of_tls_for_both_drivers():
    url = "postgresql://u@h/d?sslmode=verify-full&sslrootcert=/ca.pem"
    assert database("mlflow_database", url).url.endswith("/d?sslmode=verify-full&sslrootcert=%2Fca.pem")
    prefect = database("prefect_database", url)
    assert prefect.url.endswith("/d?ssl=verify-full")
    assert prefect.environment == {"PGSSLROOTCERT": "/ca.pem"}


def test_databases_that_can_be_used_pass(postgres):
    query = f"?host={postgres.folder}"
    for suffix in ("", "?sslmode=prefer"):
        check_databases([database(name, postgres.url(name[:-9]) + suffix) for name in VARIABLES])
    socket = [f"postgresql://ship:{QUOTED}@:{postgres.port}/{name}{query}" for name in ("mlflow", "prefect")]
    check_databases([database(name, url) for name, url in zip(VARIABLES, socket, strict=True)])


@both
def test_what_cannot_be_used_says_why(postgres, name):
    assert "password authentication failed" in refusal(name, postgres.url("mlflow", password="s3cret"))
    assert 'database "none" does not exist' in refusal(name, postgres.url("none"))
    assert "may not make tables in schema public" in refusal(name, postgres.url("postgres"))
    assert "start the database" in refusal(name, "postgresql://u:s3cret@127.0.0.1:1/d")


@both
@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://u:s3cret@h/d", "is of kind 'mysql'; expected postgresql://"),
        ("postgresql+pg8000://u:s3cret@h/d", "expected postgresql://"),
        ("sqlite:///s3cret.db", "is of kind 'sqlite'"),
        ("u:s3cret@h", "is no URL of a database"),
        ("postgresql://u:s3cret@h:port/d", "is no URL of a database"),
        ("postgresql://u:s3cret@h", "names no database"),
        ("postgresql://u@127.0.0.1:1/d?sslpassword=s3cret", "cannot be used"),
    ],
)
def test_what_is_no_url_is_refused(name, url, says):
    assert says in refusal(name, url)


def test_one_database_for_both_is_refused(postgres):
    with pytest.raises(StackError, match="name the same database"):
        check_databases([database(name, postgres.url("mlflow")) for name in VARIABLES])


def test_a_database_of_a_server_that_is_not_run_is_refused():
    settings = load_settings({"SHIPWAY_MLFLOW_DATABASE": "postgresql://h/d"})
    with pytest.raises(StackError, match=r"SHIPWAY_MLFLOW_DATABASE .* MLFLOW_TRACKING_URI names another"):
        check_stores(settings, own_mlflow=False, own_prefect=True)


def test_a_bucket_that_is_away_is_an_error_of_the_stack():
    environ = {"SHIPWAY_STORE": "s3://bucket", "SHIPWAY_S3_ENDPOINT": "http://127.0.0.1:1"}
    keys = {"SHIPWAY_S3_ACCESS_KEY": "a", "SHIPWAY_S3_SECRET_KEY": "s3cret"}
    with pytest.raises(StackError, match=r"^SHIPWAY_STORE at SHIPWAY_S3_ENDPOINT=http://127\.0\.0\.1:1: .*no answer"):
        check_stores(load_settings({**environ, **keys}), own_mlflow=True, own_prefect=True)
