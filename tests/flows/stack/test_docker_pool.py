"""What a flow run's container is given of the machine's way to packages and registries."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from flows.stack.docker_pool import CA_FILE, job_of
from infra.settings import StackSettings


@pytest.fixture
def engine_socket(tmp_path: Path) -> str:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    return str(path)


def test_the_machine_s_authorities_index_and_proxy_go_into_the_container(tmp_path: Path, engine_socket: str) -> None:
    authority = tmp_path / "private.pem"
    authority.write_text("an authority\n")
    environ = {
        "PIP_CERT": str(authority),
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_INDEX_URL": "https://packages.example/simple",
        "https_proxy": "http://proxy.example:3128",
        "NO_PROXY": ".example",
    }
    job = job_of(StackSettings(home=tmp_path / "home"), environ, "shipway:local", engine_socket)
    (mounted,) = [volume for volume in job["volumes"] if volume.endswith(f":{CA_FILE}:ro")]
    assert Path(mounted.partition(":")[0]).read_text() == "an authority\n"
    assert job["env"]["UV_DEFAULT_INDEX"] == "https://packages.example/simple"
    assert job["env"]["HTTPS_PROXY"] == "http://proxy.example:3128"
    assert job["env"]["NO_PROXY"] == ".example,127.0.0.1,localhost"


def test_a_machine_that_names_nothing_gives_nothing(tmp_path: Path, engine_socket: str) -> None:
    job = job_of(
        StackSettings(home=tmp_path / "home"), {"PIP_CONFIG_FILE": "/dev/null"}, "shipway:local", engine_socket
    )
    assert not [volume for volume in job["volumes"] if CA_FILE in volume]
    assert not {"UV_DEFAULT_INDEX", "HTTPS_PROXY", "NO_PROXY"} & job["env"].keys()


def test_the_setting_s_authority_comes_before_the_machine_s(tmp_path: Path, engine_socket: str) -> None:
    chosen = tmp_path / "chosen.pem"
    chosen.write_text("chosen\n")
    settings = StackSettings(home=tmp_path / "home", image_ca_file=chosen)
    job = job_of(settings, {"SSL_CERT_FILE": "/nowhere.pem"}, "shipway:local", engine_socket)
    assert f"{chosen}:{CA_FILE}:ro" in job["volumes"]
