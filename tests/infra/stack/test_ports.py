"""Ports are checked before anything starts; the error names port, setting and holder."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from infra.stack.part import Part
from infra.stack.ports import PortTakenError, check_ports


def part(name: str, port: int) -> Part:
    setting = f"SHIPWAY_{name.upper()}_PORT"
    return Part(name, ("true",), {}, Path(), Path("log"), healthy=lambda: True, ports={setting: port})


def test_a_taken_port_is_named_with_its_setting_and_holder():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError) as caught:
            check_ports([part("gateway", port)], "127.0.0.1")
    message = str(caught.value)
    assert f"port {port} for gateway" in message
    assert "SHIPWAY_GATEWAY_PORT" in message
    assert f"pid {os.getpid()}" in message


def test_a_port_wanted_twice_is_named_once_with_both():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(PortTakenError, match=r"SHIPWAY_MLFLOW_PORT.*SHIPWAY_PREFECT_PORT"):
        check_ports([part("mlflow", port), part("prefect", port)], "127.0.0.1")
    check_ports([part("mlflow", port)], "127.0.0.1")


def test_a_port_left_in_time_wait_is_free():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        accepted.close()  # the side that closes first keeps the port in TIME_WAIT
        client.close()
    check_ports([part("gateway", port)], "127.0.0.1")
