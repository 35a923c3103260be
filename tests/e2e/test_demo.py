"""The demo as a new user runs it: its table, its report, its records; and that nothing reaches beyond this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import free_port

pytestmark = [pytest.mark.long("demo"), pytest.mark.timeout(1200)]
SHIPWAY = Path(sys.executable).with_name("shipway")
AUDIT = Path(__file__).parent / "audit"
MOST_SECONDS = 480.0


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A shell with nothing of ours in it, in which every Python process is audited."""
    folder = tmp_path_factory.mktemp("demo")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SHIPWAY_", "MLFLOW_", "PREFECT_"))}
    ports = {
        f"SHIPWAY_{name}_PORT": str(free_port())
        for name in ("MLFLOW", "PREFECT", "GATEWAY", "GATEWAY_ADMIN", "RECEIVER")
    }
    audit = {"PYTHONPATH": str(AUDIT), "AUDIT_LOG": str(folder / "audit.log")}
    return {**kept, **ports, **audit, "SHIPWAY_HOME": str(folder / ".shipway")}


@pytest.fixture(scope="module")
def demo(shell: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The report of one run, whose stack stays up for the module."""
    try:
        done = subprocess.run(
            [SHIPWAY, "demo", "--keep"], env=shell, capture_output=True, text=True, timeout=1000, check=False
        )
        print(done.stdout)
        assert done.returncode == 0, done.stdout + done.stderr
        yield json.loads((Path(shell["SHIPWAY_HOME"]) / "demo" / "report.json").read_text())
    finally:
        subprocess.run([SHIPWAY, "down"], env=shell, timeout=120, check=True)


def test_each_version_comes_to_its_verdict(demo: dict[str, Any]) -> None:
    assert [(one["version"], one["verdict"]) for one in demo["releases"]] == [
        (1, "PROMOTE"),
        (2, "PROMOTE"),
        (3, "ROLLBACK"),
        (4, "ROLLBACK"),
    ]
    assert demo["releases"][2]["reason"].startswith("shadow")
    assert demo["releases"][3]["reason"].startswith("split")
    assert demo["failed"] == 0 and all(one["failed"] == 0 for one in demo["releases"])
    assert demo["releases"][3]["candidate_failed"] > 0, "what version 4 failed was answered by the baseline"
    assert all(0 <= one["seconds_to_last_bad_answer"] < 1 for one in demo["releases"])
    assert demo["requests"] > 10_000
    assert demo["seconds"] < MOST_SECONDS


def test_nothing_reaches_beyond_this_machine(demo: dict[str, Any], shell: dict[str, str]) -> None:
    log = Path(shell["AUDIT_LOG"])
    assert not log.exists() or not log.read_text(), log.read_text()[:3000]
    probe = "import socket\ntry: socket.create_connection(('192.0.2.1', 9), timeout=0.01)\nexcept OSError: pass"
    other = {**shell, "AUDIT_LOG": f"{log}.probe"}
    subprocess.run([sys.executable, "-c", probe], env=other, check=True)
    assert "192.0.2.1" in Path(other["AUDIT_LOG"]).read_text(), "the audit sees what it should"


def test_every_record_holds_until_one_byte_is_changed(demo: dict[str, Any], shell: dict[str, str]) -> None:
    def verify(code: int) -> str:
        done = subprocess.run([SHIPWAY, "verify"], env=shell, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    assert "5 releases, 0 findings" in verify(0)
    run = demo["releases"][2]["mlflow_run_id"]
    artifacts = Path(shell["SHIPWAY_HOME"]) / "mlflow" / "artifacts"
    for name in ("record.json", "evidence/shadow/requests.parquet"):
        path = next(artifacts.glob(f"**/{run}/artifacts/{name}"))
        whole = path.read_bytes()
        path.write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
        said = verify(1)
        assert run in said and name in said, said
        path.write_bytes(whole)
    verify(0)
