"""``shipway status`` as people and programs read it: at 80 columns, with an open release, with MLflow away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bentos.policy.release import ReleasePolicy
from flows.console.screen import status_view
from flows.release.owner import this_owner
from infra.processes import identity
from infra.settings import StackSettings
from infra.stack.part import PartState, PartStatus
from infra.stack.state import StackState, write_state
from monitoring.ledger.ledger import Ledger, Release
from tests.conftest import free_port

SHIPWAY = Path(sys.executable).with_name("shipway")
Status = Callable[..., str]


@contextmanager
def stack_at(home: Path, mlflow: str) -> Iterator[Status]:
    """A stack that runs, as far as its written state says, over the MLflow at *mlflow*; gives ``shipway status``."""
    settings = StackSettings(home=home, gateway_admin_port=free_port())
    settings.stack.mkdir(parents=True)
    recorded = {**settings.environment(), "MLFLOW_TRACKING_URI": mlflow}
    parts = (PartStatus("mlflow", PartState.EXTERNAL, mlflow),)
    write_state(settings.stack, StackState(os.getpid(), identity(os.getpid()) or "", time.time(), parts, recorded))

    def status(*arguments: str, columns: int = 80) -> str:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SHIPWAY_", "MLFLOW_", "PREFECT_"))}
        environ = {**kept, "SHIPWAY_HOME": str(home), "COLUMNS": str(columns)}
        done = subprocess.run(
            [SHIPWAY, "status", *arguments], env=environ, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    yield status


def opened(uri: str, scratch: Path, model: str) -> tuple[Ledger, Release]:
    ledger = Ledger(uri, scratch)
    release = ledger.open(
        model,
        "4",
        baseline="2",
        policy=ReleasePolicy(),
        policy_source="built-in defaults",
        digests={},
        owner=this_owner("0d9b1f5e-0000-4000-8000-000000000001"),
    )
    return ledger, release


def test_an_open_release_is_told_with_its_stage_its_evidence_its_age_and_its_owner(mlflow_server, tmp_path):
    model = f"churn-{uuid.uuid4().hex[:8]}"
    ledger, release = opened(mlflow_server, tmp_path / "files", model)
    with stack_at(tmp_path / "home", mlflow_server) as status:
        said = " ".join(status().split())
        assert f"release {model}/4, against 2: vet for" in said and "evidence so far: none" in said
        ledger.note(release, vetted="yes", built="yes", **{"began.shadow": repr(time.time() - 200)})
        ledger.metrics(release, {"shadow.requests": 1234.0, "shadow.pairs": 1200.0, "shadow.labels": 17.0}, 1)
        ledger.note(release, **{"began.split-20": repr(time.time() - 90)})
        ledger.metrics(release, {"split.requests": 500.0, "split.to_candidate": 100.0, "split.fallbacks": 3.0}, 2)
        shown = status()
        said = " ".join(shown.split())
        assert max(map(len, shown.splitlines())) <= 80
        assert f"release {model}/4, against 2: split-20 for 1 min" in said
        assert "evidence so far: 500 requests, 100 to candidate, 3 fallbacks" in said
        assert f"by flow run 0d9b1f5e-0000-4000-8000-000000000001, pid {os.getpid()}" in said and "gone" not in said
        (told,) = json.loads(status(model, "--json"))["releases"]
        assert (told["version"], told["stage"], told["weight"]) == ("4", "split-20", 0)
        assert told["evidence"] == {"requests": 500, "to_candidate": 100, "fallbacks": 3}
        assert told["opened_at"] == release.opened_at and told["owner_alive"] is True
        assert told["page"] == f"{mlflow_server}/#/experiments/{release.experiment_id}/runs/{release.run_id}"
        ledger.note(release, waiting_until=repr(time.time() + 7300))
        assert "approval, a person has 2 h 1 min to answer" in " ".join(status().split())
        ledger.note(release, approved="yes", decision="PROMOTE", decided_at=repr(time.time()))
        assert "decided: PROMOTE for" in " ".join(status().split())
        ledger.close(release, "PROMOTED", "every gate passed")
        assert f"release {model}" not in status()


def test_mlflow_away_is_said_once_and_the_rest_is_there(tmp_path):
    with stack_at(tmp_path / "home", f"http://127.0.0.1:{free_port()}") as status:
        began = time.monotonic()
        said = " ".join(status().split())
        assert time.monotonic() - began < 15
        assert said.count("the registry does not answer") == 1
        assert "releases: open releases are not known while MLflow is away." in said
        assert json.loads(status("--json"))["releases"] == []


SOCKET = (
    "unix:///home/somebody/with/a/long/name/projects/shipway/.shipway/deployments/flights-4-0f3c9a1b/run/server.sock"
)
PLAN = {
    "arms": [
        {"name": "baseline", "version": "2", "weight": 80, "mirror_percent": 0.0},
        {"name": "candidate", "version": "4", "weight": 20, "mirror_percent": 0.0},
    ]
}
FOUND: dict[str, Any] = {
    "home": "/home/somebody/with/a/long/name/projects/shipway/.shipway/that/goes/on/and/on/beyond/eighty/columns",
    "running": True,
    "up": True,
    "parts": [
        {"name": name, "state": "ready", "pid": 123456, "restarts": 0, "last_exit": "", "next_try_in": None, "url": url}
        for name, url in (
            ("mlflow", "http://127.0.0.1:15500"),
            ("deployments", ""),
            ("prefect", "http://127.0.0.1:14200"),
        )
    ],
    "models": [{"name": "flights", "aliases": {"champion": "2", "challenger": "4", "previous": "1"}, "latest": 4}],
    "plans": {"flights": PLAN},
    "releases": [],
    "deployments": [
        {
            "name": f"flights-{version}-0f3c9a1b",
            "state": "ready",
            "runtime": "treelite 4.6.1",
            "restarts": 0,
            "address": SOCKET,
            "reason": "",
        }
        for version in (2, 4)
    ],
    "problems": {},
}


def shown(found: dict[str, Any], width: int) -> str:
    console = Console(file=StringIO(), width=width)
    console.print(status_view(found))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_at_80_columns_each_server_is_one_line_and_no_path_is_cut_into_pieces():
    lines = shown(FOUND, 80).splitlines()
    servers = [line for line in lines if line.startswith("flights-")]
    assert [line.split()[:4] for line in servers] == [
        [f"flights-{version}-0f3c9a1b", "ready", "treelite", "4.6.1"] for version in (2, 4)
    ]
    assert not any("unix:" in line or "server.sock" in line for line in lines)
    parts = [line for line in lines if "http://" in line]
    assert [line.split()[-1] for line in parts] == ["http://127.0.0.1:15500", "http://127.0.0.1:14200"]


def test_a_wide_screen_has_the_addresses_whole():
    lines = [line for line in shown(FOUND, 240).splitlines() if line.startswith("flights-")]
    assert len(lines) == 2 and all(SOCKET in line for line in lines)
    assert SOCKET not in shown(FOUND, len(SOCKET))


def test_why_a_server_failed_is_shown_at_any_width():
    failed = {**FOUND["deployments"][0], "state": "failed", "reason": "ImportError: no module named nowhere"}
    said = shown({**FOUND, "deployments": [failed]}, 80)
    assert "ImportError" in said and "nowhere" in said


def test_routes_are_shown_while_mlflow_is_away():
    said = shown({**FOUND, "models": [], "problems": {"models": "MLflow is away"}}, 80)
    row = next(line for line in said.splitlines() if line.startswith("flights "))
    assert row.split()[1:4] == ["?", "?", "?"] and "candidate v4 20 %" in " ".join(said.split())


@pytest.mark.parametrize(
    ("weight", "mirror", "said"), [(20, 0.0, "20 % of requests"), (0, 100.0, "0 % of requests, copies of 100 %")]
)
def test_the_share_of_a_release_is_what_the_gateway_gives_it(weight, mirror, said):
    from flows.console.status import _share

    plan = {"arms": [PLAN["arms"][0], {**PLAN["arms"][1], "weight": weight, "mirror_percent": mirror}]}
    release = {
        "model": "flights", "version": "4", "baseline": "2", "stage": "split-20", "stage_since": time.time() - 5,
        "waiting_until": None, "opened_at": time.time() - 100, "evidence": {}, "owner": {"flow_run_id": "f"},
        "owner_alive": False, "owner_here": True, **_share(plan, "4"),
    }  # fmt: skip
    text = " ".join(shown({**FOUND, "releases": [release]}, 80).split())
    assert said in text and "open for 1 min 40 s, by flow run f, which is gone" in text
