"""The console script: what it says and how it ends, without a running stack."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SHIPWAY = Path(sys.executable).with_name("shipway")


@pytest.fixture
def shipway(tmp_path):
    """Runs the console script with a home folder of its own; *environ* on top."""

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SHIPWAY_", "MLFLOW_", "PREFECT_"))
        }
        home = {"SHIPWAY_HOME": str(tmp_path / "home of it's own")}
        return subprocess.run(
            [SHIPWAY, *arguments],
            env={**kept, **home, **environ},
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )

    return run


def test_env_survives_a_shell_whatever_the_folder_is_called(shipway, tmp_path):
    printed = shipway("env", SHIPWAY_GATEWAY_PORT="4000").stdout
    script = f"eval {shlex.quote(printed)}; env -0"
    shown = subprocess.run(["sh", "-c", script], env={}, capture_output=True, text=True, check=True).stdout
    seen = dict(line.split("=", 1) for line in shown.split("\0") if line)
    assert seen["SHIPWAY_HOME"] == str(tmp_path / "home of it's own")
    assert seen["SHIPWAY_GATEWAY_PORT"] == "4000"
    assert seen["PREFECT_API_URL"] == "http://127.0.0.1:14200/api"
    assert seen["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:15500"
    assert seen["DO_NOT_TRACK"] == "true"


def test_status_without_a_stack(shipway):
    told = shipway("status")
    assert told.returncode == 3
    assert "down" in told.stdout
    found = json.loads(shipway("status", "--json").stdout)
    assert (found["running"], found["up"], found["parts"], found["problems"]) == (False, False, [], {})


def test_down_without_a_stack_makes_nothing(shipway, tmp_path):
    told = shipway("down")
    assert (told.returncode, list(tmp_path.iterdir())) == (0, [])
    assert "No stack runs" in told.stdout


@pytest.mark.parametrize("command", ["up", "down", "env", "status"])
def test_an_unknown_setting_is_refused_by_every_command(shipway, command):
    told = shipway(command, SHIPWAY_GATEWY_PORT="1")
    assert told.returncode == 1
    assert told.stderr.startswith("shipway: SHIPWAY_GATEWY_PORT: no such setting; did you mean SHIPWAY_GATEWAY_PORT?")
    assert "Traceback" not in told.stderr


def test_a_taken_port_ends_up_before_anything_is_started(shipway, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        told = shipway("up", SHIPWAY_RECEIVER_PORT=str(port))
    assert told.returncode == 1
    assert f"port {port} for receiver is taken by" in told.stderr
    assert f"(pid {os.getpid()})" in told.stderr
    assert "SHIPWAY_RECEIVER_PORT" in told.stderr
    assert not (tmp_path / "home of it's own" / "stack" / "state.json").exists()


def test_a_folder_that_cannot_be_used_ends_up(shipway):
    told = shipway("up", SHIPWAY_HOME="/sys/shipway")
    assert told.returncode == 1
    assert "/sys/shipway cannot be used" in told.stderr
    assert "SHIPWAY_HOME" in told.stderr


@pytest.mark.long("databases")
def test_a_part_that_does_not_come_up_ends_up_with_the_end_of_its_log(shipway, tmp_path):
    home = tmp_path / "home"
    (home / "mlflow" / "mlflow.db").mkdir(parents=True)  # no database can be opened there
    ports = {}
    for name in ("GATEWAY", "GATEWAY_ADMIN", "RECEIVER", "MLFLOW", "PREFECT"):
        with socket.create_server(("127.0.0.1", 0)) as server:
            ports[f"SHIPWAY_{name}_PORT"] = str(server.getsockname()[1])
    told = shipway("up", SHIPWAY_HOME=str(home), SHIPWAY_START_SECONDS="40", **ports)
    assert told.returncode == 1
    assert "mlflow" in told.stderr
    assert "unable to open database file" in told.stderr
    assert shipway("status", SHIPWAY_HOME=str(home)).returncode == 3
    assert "No stack runs" in shipway("down", SHIPWAY_HOME=str(home)).stdout
