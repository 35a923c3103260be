"""The demo in containers: the same verdicts, no request failed, hardened containers, nothing left after ``down``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.images.engine import connected
from tests.conftest import free_port
from tests.docker_engine import require_engine, settings_of_this_machine

pytestmark = [pytest.mark.long("docker"), pytest.mark.timeout(1500)]
SHIPWAY = Path(sys.executable).with_name("shipway")
PORTS = ("MLFLOW", "PREFECT", "GATEWAY", "GATEWAY_ADMIN", "RECEIVER")


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """The engine of this machine; without one these tests are skipped."""
    require_engine()
    with connected() as client:
        yield client


@pytest.fixture(scope="module")
def shell(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A shell with nothing of ours in it but where images come from on this machine."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SHIPWAY_", "MLFLOW_", "PREFECT_"))}
    ports = {f"SHIPWAY_{name}_PORT": str(free_port()) for name in PORTS}
    chosen = settings_of_this_machine().model_dump(exclude_none=True)
    images = {f"SHIPWAY_IMAGE_{name.upper()}": str(value) for name, value in chosen.items()}
    return {**kept, **ports, **images, "SHIPWAY_HOME": str(tmp_path_factory.mktemp("docker") / ".shipway")}


@pytest.fixture(scope="module")
def demo(shell: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The report of one run, whose stack stays up for the module."""
    try:
        done = subprocess.run(
            [SHIPWAY, "demo", "--keep", "--target", "docker"],
            env=shell,
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
        print(done.stdout)
        assert done.returncode == 0, done.stdout + done.stderr
        yield json.loads((Path(shell["SHIPWAY_HOME"]) / "demo" / "report.json").read_text())
    finally:
        subprocess.run([SHIPWAY, "down"], env=shell, timeout=120, check=True)


def test_each_version_comes_to_its_verdict(demo: dict[str, Any]) -> None:
    assert [one["verdict"] for one in demo["releases"]] == ["PROMOTE", "PROMOTE", "ROLLBACK", "ROLLBACK"]
    assert demo["failed"] == 0 and all(one["failed"] == 0 for one in demo["releases"])
    assert demo["releases"][3]["candidate_failed"] > 0
    assert all(0 <= one["seconds_to_last_bad_answer"] < 1 for one in demo["releases"])
    assert demo["requests"] > 10_000


def test_the_champion_runs_in_a_hardened_container(demo: dict[str, Any], shell: dict[str, str], engine: Any) -> None:
    status = json.loads(subprocess.run([SHIPWAY, "status", "--json"], env=shell, capture_output=True).stdout)
    names = {each["name"] for each in status["deployments"]}
    found = [one for one in engine.containers.list() if one.labels.get("io.shipway.deployment") in names]
    assert {one.labels["io.shipway.deployment"] for one in found} == names != set()
    for container in found:
        host, image = container.attrs["HostConfig"], container.image.attrs["Config"]
        assert host["NetworkMode"] == "none"
        assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"]
        assert "no-new-privileges" in " ".join(host["SecurityOpt"])
        assert container.attrs["Config"]["User"].split(":")[0] not in ("", "0", "root")
        assert image["User"].split(":")[0] not in ("", "0", "root")
        assert image["Labels"]["io.shipway.bento-digest"].startswith("sha256:")


def test_records_hold_and_name_the_image(demo: dict[str, Any], shell: dict[str, str]) -> None:
    done = subprocess.run([SHIPWAY, "verify"], env=shell, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and "5 releases, 0 findings" in done.stdout, done.stdout + done.stderr


def test_down_leaves_nothing_on_the_engine(demo: dict[str, Any], shell: dict[str, str], engine: Any) -> None:
    subprocess.run([SHIPWAY, "down"], env=shell, timeout=120, check=True)
    home = shell["SHIPWAY_HOME"]
    mounts = [
        mount.get("Source", "") for one in engine.containers.list(all=True) for mount in one.attrs.get("Mounts", [])
    ]
    assert not [source for source in mounts if source.startswith(home)]
    assert not list(Path(home).rglob("*.sock"))
