"""The compose files as docker-compose itself merges them. No engine is needed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).resolve().parents[3] / "infra" / "compose"
OURS = {"bucket", "compactor", "gateway", "init", "keeper", "mlflow", "prefect", "receiver", "volumes", "worker"}


@pytest.fixture
def merged(tmp_path):
    if shutil.which("docker-compose") is None:
        pytest.skip("docker-compose is not installed (Debian: docker-compose)")
    (tmp_path / "env").touch()  # not the .env of a stack that runs from this checkout
    return lambda *files, **environ: merge(tmp_path / "env", files, environ)


def merge(env_file, files, environ):
    arguments = [part for file in ("docker-compose.yml", *files) for part in ("-f", HERE / file)]
    done = subprocess.run(
        ["docker-compose", "--env-file", env_file, *arguments, "config"],
        env={"PATH": "/usr/bin:/bin", **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def test_every_part_is_hardened_whatever_image_it_is(merged):
    services = merged(COMPOSE_PROFILES="grafana")["services"]
    assert services.keys() == OURS | {"postgres", "s3", "prometheus", "grafana"}
    for name, service in services.items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert name in OURS or not service["user"].startswith("0:"), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert name in {"s3", "compactor", "volumes", "bucket", "init"} or "healthcheck" in service, name
        assert not service["image"].endswith(":latest") and ":" in service["image"], name


def test_two_stacks_share_nothing_but_the_engine(merged):
    one, other = (merged(COMPOSE_PROJECT_NAME=name) for name in ("blue", "green"))
    for kind in ("networks", "volumes"):
        names = [{value["name"] for value in found[kind].values()} for found in (one, other)]
        assert all(name.startswith("blue-") for name in names[0])
        assert not names[0] & names[1]
    homes = {found["services"]["worker"]["environment"]["SHIPWAY_HOME"] for found in (one, other)}
    assert homes == {"/srv/blue", "/srv/green"}  # the target names containers after its folder


def test_model_servers_have_no_way_out_unless_they_pull(merged):
    assert merged()["networks"]["models"] == {"internal": True, "name": "shipway-models"}
    pulled = merged("docker-compose.pulled.yml")
    assert pulled["networks"]["models"] == {"internal": False, "name": "shipway-models"}
    assert pulled["services"]["mlflow"]["networks"].keys() == {"control", "models"}
    assert "models" not in merged()["services"]["mlflow"]["networks"]


def test_stand_ins_take_the_place_of_what_is_pulled(merged):
    services = merged("docker-compose.stand-ins.yml", SHIPWAY_BASE_IMAGE="local:1")["services"]
    for name in ("postgres", "s3", "prometheus"):
        assert services[name]["image"] == f"shipway-stand-in-{name}:local"
        assert services[name]["build"]["args"]["SHIPWAY_BASE_IMAGE"] == "local:1"
