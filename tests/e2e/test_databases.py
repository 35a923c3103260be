"""The stack on PostgreSQL and S3: refused before anything starts, a release to PROMOTE, everything killed, nothing lost."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import duckdb
import httpx
import psutil
import pytest
from pyarrow import dataset, fs

from infra.stack.part_process import marked
from tests.e2e.stack import SHIPWAY, Stack, until
from tests.e2e.toy import QUICK, model_of, register_toy, write_policy
from tests.infra.stores.servers import PASSWORD, POSTGRES, QUOTED, S3, Postgres, postgres_server, s3_server

pytestmark = [pytest.mark.e2e, pytest.mark.long("databases")]
MODEL = "wine"


@dataclass
class World:
    """A stack and the servers that it keeps everything on."""

    stack: Stack
    postgres: Postgres
    s3: S3
    run: str = ""  # the flow run of the release

    @property
    def secrets(self) -> tuple[str, ...]:
        return PASSWORD, QUOTED, self.s3.secret_key, self.s3.access_key


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Not up yet."""
    if not POSTGRES.is_dir():
        pytest.skip("no PostgreSQL server is installed (Debian's package postgresql)")
    folder = tmp_path_factory.mktemp("databases")
    with ExitStack() as open_servers:
        s3 = open_servers.enter_context(s3_server(folder))
        postgres = open_servers.enter_context(postgres_server("mlflow", "prefect"))
        s3.client().create_bucket(Bucket="ships")
        stack = Stack(folder)
        (folder / "prefect-database").write_text(postgres.url("prefect") + "\n")
        stack.environ |= {
            "SHIPWAY_MLFLOW_DATABASE": postgres.url("mlflow"),
            "SHIPWAY_PREFECT_DATABASE_FILE": str(folder / "prefect-database"),
            "SHIPWAY_ARTIFACTS": "s3://ships/mlflow",
            "SHIPWAY_STORE": "s3://ships/shipway",
            "SHIPWAY_S3_ENDPOINT": s3.endpoint,
            "SHIPWAY_S3_ACCESS_KEY": s3.access_key,
            "SHIPWAY_S3_SECRET_KEY": s3.secret_key,
        }
        open_servers.callback(stack.run, "down")
        yield World(stack, postgres, s3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"SHIPWAY_MLFLOW_DATABASE": "postgresql://ship:wr0ng@127.0.0.1:{port}/mlflow"},
            "password authentication failed",
        ),
        ({"SHIPWAY_MLFLOW_DATABASE": "mysql://ship:wr0ng@127.0.0.1/mlflow"}, "is of kind 'mysql'"),
        ({"SHIPWAY_STORE": "s3://missing/a"}, "NoSuchBucket"),
        ({"SHIPWAY_S3_SECRET_KEY": "wr0ng"}, "SignatureDoesNotMatch"),
    ],
)
def test_a_store_that_refuses_is_an_error_before_anything_starts(world, change, says):
    stack = world.stack
    filled = {name: value.format(port=world.postgres.port) for name, value in change.items()}
    environ = {**stack.environ, **filled}
    done = subprocess.run([SHIPWAY, "up"], env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done
    said = done.stdout + done.stderr
    (name,) = change
    assert (name if name != "SHIPWAY_S3_SECRET_KEY" else "SHIPWAY_STORE") in said
    assert says in said
    assert not any(secret in said for secret in ("wr0ng", *world.secrets))
    assert marked(stack.settings.root) == []
    assert not (stack.settings.stack / "state.json").exists()


def test_a_release_ends_promote_and_no_secret_is_shown(world):
    stack, s3 = world.stack, world.s3
    stack.run("up")
    root = stack.settings.root
    assert not list(root.rglob("*.db"))
    register_toy(stack, MODEL, versions=1)
    write_policy(stack, MODEL, QUICK)
    done = stack.flow("promote-model", model=MODEL, version="1")
    assert "PROMOTED" in done.said, done.said
    world.run = done.id
    commands = " ".join(word for process in psutil.process_iter(["cmdline"]) for word in process.info["cmdline"] or ())
    shown = stack.run("status", "--json") + stack.run("env") + commands
    shown += "".join(
        path.read_text(errors="replace") for path in [*stack.settings.logs.iterdir(), root / "stack/state.json"]
    )
    assert [secret for secret in world.secrets if secret in shown] == []

    keys = s3.keys("ships")
    assert [key for key in keys if key.startswith("mlflow/") and key.endswith("/MLmodel")]
    (report,) = [key for key in keys if key.endswith("/report.html")]
    assert report.startswith(f"shipway/reports/{MODEL}/")
    page = httpx.get(f"{stack.settings.receiver_url}/{report.removeprefix('shipway/')}", trust_env=False)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "PROMOTED" in page.text
    assert not list((root / "mlflow").rglob("MLmodel")) and not list(stack.settings.reports.iterdir())
    assert "0 findings" in stack.run("verify", MODEL)


def ask(stack: Stack, count: int) -> set[str]:
    """The ids of requests that the gateway answered."""
    body = {"dataframe_split": {"columns": list("abcd"), "data": [[0.1, 0.2, 0.3, 0.4]]}}
    answers = [stack.post(f"/models/{MODEL}/invocations", body) for _ in range(count)]
    assert [answer.status_code for answer in answers] == [200] * count
    return {answer.headers["x-request-id"] for answer in answers}


def logged(s3: S3) -> set[str]:
    """Request ids of the compacted log in the bucket."""
    if not any(key.startswith("shipway/predictions/") for key in s3.keys("ships")):
        return set()
    files = fs.S3FileSystem(
        endpoint_override=s3.endpoint, access_key=s3.access_key, secret_key=s3.secret_key, region="us-east-1"
    )
    log = dataset.dataset("ships/shipway/predictions", filesystem=files, partitioning="hive")
    with duckdb.connect() as connection:
        connection.register("log", log)
        found = connection.execute("SELECT request_id FROM log WHERE model = ?", [MODEL]).fetchall()
    return {row[0] for row in found}


def test_everything_killed_comes_back_and_nothing_is_lost(world):
    stack = world.stack
    asked = ask(stack, 20)
    time.sleep(2)  # the log is written every half second
    stack.kill_everything()
    for process in psutil.process_iter(["cmdline"]):
        if any(str(stack.settings.deployments) in word for word in process.info["cmdline"] or ()):
            process.kill()
    world.postgres.stop(signal.SIGQUIT)  # as if its power had gone too
    world.postgres.start()
    stack.run("up")
    assert model_of(stack, MODEL)["aliases"]["champion"] == "1"
    assert stack.ledger().releases(MODEL)[0].outcome == "PROMOTED"
    runs = httpx.post(f"{stack.settings.prefect_api_url}/flow_runs/filter", json={}, trust_env=False, timeout=30).json()
    assert world.run in [run["id"] for run in runs]
    until(lambda: asked <= logged(world.s3), seconds=60)
    assert not list((stack.settings.predictions / "parquet").rglob("*.parquet"))
    assert ask(stack, 3)
    assert "0 findings" in stack.run("verify", MODEL)
    until(lambda: stack.status()["problems"] == {})


def test_down_leaves_databases_and_bucket_as_they_are(world):
    world.stack.run("down")
    assert marked(world.stack.settings.root) == []
    assert [key for key in world.s3.keys("ships") if key.endswith("/MLmodel")]
