"""What containers are made of, as plain values."""

from dataclasses import replace
from pathlib import Path

import pytest

from bentos.serving.threads import THREADS
from infra.images.interface import ImageSettings
from infra.targets.docker.container import command_of, environment_of, mounts_of, options_of
from infra.targets.docker.place import Place
from infra.targets.docker.settings import DockerSettings
from infra.targets.interface import DeploymentSpec

SPEC = DeploymentSpec("flights", "7", "/bento", "sha256:" + "1" * 64, "python", {"OWN": "1"}, "sha256:" + "2" * 64)
PULLED = replace(SPEC, pulled=True, model_digest="sha256:" + "3" * 64)
RESOLVED = replace(SPEC, resolved=True)
BOTH = replace(PULLED, resolved=True)
PLACE = Place(
    "shipway-x", "stack", "1:2", Path("/segments/flights/7"), Path("/cache"), Path("/run"), Path("/given"), 81
)
IMAGES = ImageSettings(index_url="http://127.0.0.1:3141/simple", ca_file=Path("/ca.pem"), proxy="http://127.0.0.1:3128")
LOGIN = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "hush", "AWS_SECRET_ACCESS_KEY": "more"}
REGISTRY = DockerSettings(registry_url="http://mlflow:5000")
PULL = ["--model", "flights", "--version", "7", "--digest", PULLED.model_digest, "--registry", "http://mlflow:5000"]
SOCKET = ["--uds", "/run/shipway/server.sock"]
TAIL = ["--segments", "/segments", "--deployment"]


@pytest.mark.parametrize(
    ("spec", "settings", "expected"),
    [
        (SPEC, REGISTRY, [*SOCKET, *TAIL]),
        (RESOLVED, REGISTRY, [*SOCKET, *TAIL]),
        (SPEC, DockerSettings(network="n"), ["--host", "0.0.0.0", "--port", "8080", *TAIL]),
        (PULLED, REGISTRY, [*PULL, *SOCKET, *TAIL]),
        (BOTH, REGISTRY, [*PULL, "--lock", "/run/shipway-given/requirements.lock", *SOCKET, *TAIL]),
    ],
    ids=["included", "resolved", "network", "pulled", "pulled and resolved"],
)
def test_the_command_line(spec, settings, expected):
    assert command_of(spec, settings) == [*expected, spec.name]


def test_a_named_volume_is_shared_by_all_versions():
    command = command_of(SPEC, DockerSettings(segments_volume="log"))
    assert command[command.index("--segments") + 1] == "/segments/flights/7"
    (mount, *_) = mounts_of(SPEC, PLACE, DockerSettings(segments_volume="log"))
    assert (mount["Type"], mount["Source"], mount["Target"]) == ("volume", "log", "/segments")


def test_each_form_gets_only_the_environment_that_it_fetches_with():
    usual = {*THREADS, "HOME", "PYTHONUNBUFFERED", "OWN"}
    index, way = {"UV_DEFAULT_INDEX", "UV_INDEX_URL"}, {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE"}
    login = {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"}
    expected = [
        (SPEC, usual),
        (RESOLVED, usual | index | way),
        (PULLED, usual | way | login),
        (BOTH, usual | index | way | login),
    ]
    for spec, names in expected:
        assert set(environment_of(spec, REGISTRY, IMAGES, LOGIN)) == names
    found = environment_of(BOTH, REGISTRY, IMAGES, LOGIN)
    assert found["NO_PROXY"] == "localhost,127.0.0.1,mlflow"
    assert found["SSL_CERT_FILE"] == "/run/shipway-given/ca.pem"


def test_only_what_is_written_to_is_mounted_writable():
    mounts = {mount["Target"]: mount for mount in mounts_of(BOTH, PLACE, REGISTRY)}
    assert {target for target, mount in mounts.items() if not mount["ReadOnly"]} == {
        "/segments",
        "/run/shipway",
        "/var/cache/shipway",
    }
    assert mounts["/run/shipway-given"]["ReadOnly"]
    assert "/var/cache/shipway" not in {mount["Target"] for mount in mounts_of(SPEC, PLACE, REGISTRY)}


@pytest.mark.parametrize(
    ("spec", "settings", "expected"),
    [
        (SPEC, REGISTRY, {"network_mode": "none"}),
        (PULLED, REGISTRY, {"network_mode": "host"}),
        (RESOLVED, DockerSettings(pull_network="fetch"), {"network_mode": "fetch"}),
        (PULLED, DockerSettings(network="n"), {"network": "n", "ports": {"8080/tcp": ("127.0.0.1", 81)}}),
    ],
)
def test_a_network_only_where_one_is_needed(spec, settings, expected):
    options = options_of(spec, PLACE, settings, ImageSettings(), {})
    assert {key: options[key] for key in ("network_mode", "network", "ports") if key in options} == expected


def test_a_crash_loop_is_the_engines_to_end():
    options = options_of(SPEC, PLACE, REGISTRY, ImageSettings(), {})
    assert options["restart_policy"] == {"Name": "on-failure", "MaximumRetryCount": 2}
    never = options_of(SPEC, PLACE, DockerSettings(restart="no"), ImageSettings(), {})
    assert never["restart_policy"]["Name"] == "no"
    assert "mem_limit" not in never and "nano_cpus" not in never
