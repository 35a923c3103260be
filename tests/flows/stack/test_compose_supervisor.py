"""What the keeper tells Prometheus."""

from __future__ import annotations

import json

from flows.stack.compose_supervisor import targets_of, write_discovery
from infra.targets.interface import Address, Deployment, State

SERVER = Deployment("churn-4-0a1b2c3d", "churn", "4", "sha256:0a", Address(host="churn-4", port=8080), State.READY)
SOCKET = Deployment("churn-3-99999999", "churn", "3", "sha256:99", Address(uds="/run/x.sock"), State.READY)


def test_servers_on_sockets_are_left_out():
    assert targets_of([SERVER, SOCKET]) == [{"targets": ["churn-4:8080"], "labels": {"deployment": "churn-4-0a1b2c3d"}}]


def test_the_file_is_replaced_only_where_something_changed(tmp_path):
    file = tmp_path / "models.json"
    write_discovery(file, [SERVER])
    first = file.stat().st_ino
    write_discovery(file, [SERVER])
    assert file.stat().st_ino == first
    write_discovery(file, [])
    assert file.stat().st_ino != first
    assert json.loads(file.read_text()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["models.json"]
