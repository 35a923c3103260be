"""An owner is alive as its very process, or by a fresh heartbeat from elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys

from flows.release.owner import HEARTBEAT_SECONDS, alive, this_owner


def test_this_process_is_alive() -> None:
    assert alive(this_owner("run"), heartbeat_at=0.0, now=1e9)


def test_a_reused_pid_is_not_the_owner() -> None:
    owner = {**this_owner("run"), "identity": "1.0"}
    assert not alive(owner, heartbeat_at=1e9, now=1e9)


def test_an_ended_process_is_dead() -> None:
    code = "import json; from flows.release.owner import this_owner; print(json.dumps(this_owner('run')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert not alive(json.loads(done.stdout), heartbeat_at=1e9, now=1e9)


def test_another_machine_is_judged_by_its_heartbeat() -> None:
    owner = {**this_owner("run"), "host": "elsewhere"}
    assert alive(owner, heartbeat_at=100.0, now=100.0 + HEARTBEAT_SECONDS - 1)
    assert not alive(owner, heartbeat_at=100.0, now=100.0 + HEARTBEAT_SECONDS)
