"""The stack of infra/compose: up on real databases, two releases to their verdicts, seen by Prometheus, gone after down."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from infra.images.engine import connected
from infra.targets.docker.container import STACK_LABEL
from tests.e2e.composed import Composed, composed, dashboard, until
from tests.e2e.toy import CODE, QUICK
from tests.e2e.traffic import Traffic

pytestmark = [pytest.mark.long("compose"), pytest.mark.timeout(1200)]
ONCE = {"volumes", "bucket", "init"}
NAME = f"shipway-test-{uuid.uuid4().hex[:6]}"
MODEL = f"toy-{NAME[-6:]}"


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """A client of the engine. What was released here is removed with its images."""
    with connected() as client:
        yield client
        for image in client.images.list(filters={"label": f"io.shipway.model={MODEL}"}):
            client.images.remove(image.id, force=True)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    """The stack, up and healthy."""
    with composed(tmp_path_factory.mktemp("compose"), NAME) as made:
        yield made


@pytest.fixture(scope="module")
def released(stack: Composed) -> Traffic:
    """Two versions: the first released by its flow, the second by its alias, under load."""
    stack.policy(MODEL, QUICK)
    subprocess.run([sys.executable, "-c", CODE, MODEL, "2"], env=stack.user_environ(), check=True, timeout=240)
    assert stack.flow("promote-model", model=MODEL, version="1").startswith("PROMOTED")
    with Traffic(f"{stack.url('gateway')}/models/{MODEL}/invocations", rate=30) as traffic:
        until(lambda: traffic.versions["1"] > 10, 20)
        stack.mlflow("POST", "registered-models/alias", name=MODEL, alias="challenger", version="2")
        until(
            lambda: stack.aliases(MODEL) == {"champion": "2", "previous": "1"},
            200,
            lambda: stack.compose("logs", "--tail=60", "worker", "receiver"),
        )
        until(lambda: traffic.versions["2"] > 60, 60)
    return traffic


def containers(engine: Any) -> dict[str, Any]:
    found = engine.containers.list(all=True, filters={"label": f"com.docker.compose.project={NAME}"})
    return {one.labels["com.docker.compose.service"]: one for one in found}


def test_every_part_is_up_and_hardened(stack: Composed, engine: Any) -> None:
    parts = containers(engine)
    for name, part in parts.items():
        state, host = part.attrs["State"], part.attrs["HostConfig"]
        if name in ONCE:
            assert (state["Status"], state["ExitCode"]) == ("exited", 0), name
        else:
            assert state["Status"] == "running" and state.get("Health", {"Status": "healthy"})["Status"] == "healthy", (
                name
            )
        user = part.attrs["Config"]["User"] or part.image.attrs["Config"]["User"]
        assert user.split(":")[0] not in ("", "0", "root"), name
        assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and not host["Privileged"], name
        assert host["SecurityOpt"] == ["no-new-privileges:true"], name
        published = [one for ports in (host["PortBindings"] or {}).values() for one in ports]
        assert {one["HostIp"] for one in published} <= {"127.0.0.1"}, name
    assert {name for name, part in parts.items() if "docker.sock" in str(part.attrs["Mounts"])} == {"worker", "keeper"}


def test_no_secret_is_in_an_environment_or_an_image(stack: Composed, engine: Any) -> None:
    secrets = {path.name: path.read_text() for path in (stack.folder / "secrets").iterdir()}
    for name, part in containers(engine).items():
        known = f"{part.attrs['Config']['Env']} {part.attrs['Config']['Cmd']} {part.image.attrs['Config']}"
        assert not [secret for secret, value in secrets.items() if value in known], name


def test_both_versions_were_promoted_and_no_request_failed(released: Traffic) -> None:
    assert released.failures == []
    assert set(released.versions) == {"1", "2"}


def test_what_was_released_lies_in_postgres_and_s3(stack: Composed, released: Traffic) -> None:
    def count(database: str, table: str) -> int:
        asked = ("psql", "-U", "postgres", "-d", database, "-tAc", f"select count(*) from {table}")
        return int(stack.compose("exec", "-T", "postgres", *asked))

    assert count("mlflow", "model_versions") == 2
    assert count("prefect", "flow_run") >= 2
    listing = (
        "import boto3; found = boto3.client('s3').list_objects_v2(Bucket='shipway')['Contents'];"
        " print(*(one['Key'] for one in found))"
    )
    keys = stack.compose("run", "--rm", "-T", "bucket", "python", "-c", listing).split()
    assert any(key.startswith("mlflow/") and key.endswith("/MLmodel") for key in keys)
    assert any(key.startswith("store/") and key.endswith(".html") for key in keys), keys


def test_the_model_servers_reach_nothing_and_serve_hardened(stack: Composed, released: Traffic, engine: Any) -> None:
    def servers() -> list[Any]:
        return [one for one in engine.containers.list() if one.image.labels.get("io.shipway.model") == MODEL]

    # the aliases move before the bake, and the version before is drained and removed after it
    until(lambda: len(servers()) == 1, 90, lambda: f"{[one.name for one in servers()]}")
    (server,) = servers()
    assert list(server.attrs["NetworkSettings"]["Networks"]) == [f"{NAME}-models"]
    assert not server.attrs["HostConfig"]["PortBindings"]
    parts = containers(engine)

    def address(part: str) -> str:
        return str(parts[part].attrs["NetworkSettings"]["Networks"][f"{NAME}-control"]["IPAddress"])

    others = [(address("gateway"), 19901), (address("mlflow"), 5000), (address("postgres"), 5432)]
    probe = (
        "import socket, sys\n"
        f"for where in {others}:\n"
        "    try:\n"
        "        socket.create_connection(where, 2)\n"
        "    except OSError:\n"
        "        continue\n"
        "    sys.exit(f'{where} answers')\n"
    )
    code, said = server.exec_run(["/opt/shipway/env/bin/python", "-c", probe])
    assert code == 0, said


def test_prometheus_sees_every_part_and_evaluates_every_rule(stack: Composed, released: Traffic) -> None:
    def jobs() -> dict[str, set[str]]:
        seen: dict[str, set[str]] = {}
        for target in stack.prometheus("targets", state="active")["activeTargets"]:
            seen.setdefault(target["labels"]["job"], set()).add(target["health"])
        return seen

    until(
        lambda: jobs() == {job: {"up"} for job in ("gateway", "receiver", "models", "prometheus")},
        60,
        lambda: f"{jobs()}",
    )
    rules = [rule for group in stack.prometheus("rules")["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}
    recorded = [rule["name"] for rule in rules if rule["type"] == "recording"]
    missing = [name for name in recorded if not stack.prometheus("query", query=name)["result"]]
    assert recorded and missing == []


def test_every_panel_of_the_dashboard_has_data(stack: Composed, released: Traffic) -> None:
    empty = []
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$model", MODEL)
            if not stack.prometheus("query", query=expression)["result"]:
                empty.append(f"{panel['title']}: {expression}")
    assert [one for one in empty if not one.startswith("Labels:")] == []  # nobody has sent labels here


def test_gateway_and_models_come_back_as_they_were(stack: Composed, released: Traffic, engine: Any) -> None:
    stack.compose("restart", "gateway", "keeper")
    with Traffic(f"{stack.url('gateway')}/models/{MODEL}/invocations", rate=5) as traffic:
        until(lambda: traffic.versions["2"] > 5, 60, lambda: f"{traffic.failures[-3:]}")
    assert set(traffic.versions) == {"2"}


def test_down_leaves_nothing(stack: Composed, released: Traffic, engine: Any) -> None:
    (server,) = [one for one in engine.containers.list() if one.image.labels.get("io.shipway.model") == MODEL]
    label = f"{STACK_LABEL}={server.labels[STACK_LABEL]}"
    stack.compose("down", "-v", "--timeout", "60", timeout=180)
    assert containers(engine) == {}
    assert engine.containers.list(all=True, filters={"label": label}) == []
    assert [one.name for one in engine.networks.list() if one.name.startswith(NAME)] == []
    assert [one.name for one in engine.volumes.list() if one.name.startswith(NAME)] == []
