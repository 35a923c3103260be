"""What a deployment's container is made of: command, environment, mounts, limits. Pure: values in, plain values out.

Inside a container, whichever image it runs:

    /run/shipway/server.sock   the socket, on a private folder of this machine (no network)
    0.0.0.0:8080               where it listens in place of the socket (with a network)
    /segments                  its part of the prediction log
    /run/shipway-given         what a start needs of the release: the hashed lock, certificate authorities; read-only
    /var/cache/shipway         models and environments that were fetched, shared by all that fetch
    /tmp                       in memory; nothing else can be written
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bentos.serving.threads import ONE_THREAD
from infra.targets.docker.place import Place
from infra.targets.docker.settings import DockerSettings
from infra.targets.interface import DeploymentSpec

if TYPE_CHECKING:
    from infra.images.interface import ImageSettings

PORT = 8080
RUN = "/run/shipway"
SEGMENTS = "/segments"
CACHE = "/var/cache/shipway"
GIVEN = "/run/shipway-given"
LOCK_FILE = "requirements.lock"
CA_FILE = "ca.pem"
STACK_LABEL = "io.shipway.stack"
DEPLOYMENT_LABEL = "io.shipway.deployment"
MLFLOW_LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
TRIES = 3  # starts before a server was ever ready, after which the engine gives it up
MIB = 1024 * 1024


def fetches(spec: DeploymentSpec) -> bool:
    """Whether the container needs a network when it starts."""
    return spec.pulled or spec.resolved


def given_path(spec: DeploymentSpec, settings: DockerSettings, name: str) -> str:
    """Where the container finds the file *name* of what it is given: in its cache where that is a named volume, as folders
    of the stack are then out of the engine's sight."""
    if settings.cache_volume is None:
        return f"{GIVEN}/{name}"
    return f"{CACHE}/{hashlib.sha256(spec.name.encode()).hexdigest()[:16]}-{name}"


def command_of(spec: DeploymentSpec, settings: DockerSettings) -> list[str]:
    """What follows the image's own entry point."""
    command = []
    if spec.pulled:
        command += ["--model", spec.model, "--version", spec.version, "--digest", spec.model_digest]
        command += ["--registry", settings.registry_url or ""]
    if spec.pulled and spec.resolved:
        command += ["--lock", given_path(spec, settings, LOCK_FILE)]
    if settings.network is None:
        command += ["--uds", f"{RUN}/server.sock"]
    else:
        command += ["--host", "0.0.0.0", "--port", str(PORT)]  # noqa: S104 - of the container's own network
    segments = SEGMENTS if settings.segments_volume is None else f"{SEGMENTS}/{spec.model}/{spec.version}"
    return [*command, "--segments", segments, "--deployment", spec.name, *spec.arguments]


def environment_of(
    spec: DeploymentSpec, settings: DockerSettings, images: ImageSettings, caller: Mapping[str, str]
) -> dict[str, str]:
    """The server's environment. Of the *caller*'s own only MLflow's login is handed on, to containers that pull."""
    values = {**ONE_THREAD, "HOME": "/tmp", "PYTHONUNBUFFERED": "1"}  # noqa: S108 - the container's own
    if spec.resolved and images.index_url is not None:
        values |= {"UV_DEFAULT_INDEX": images.index_url, "UV_INDEX_URL": images.index_url}
    if fetches(spec) and images.proxy is not None:
        registry = urlsplit(settings.registry_url or "").hostname
        direct = ["localhost", "127.0.0.1", *([registry] if registry else []), *filter(None, [images.no_proxy])]
        values |= {"HTTPS_PROXY": images.proxy, "HTTP_PROXY": images.proxy, "NO_PROXY": ",".join(dict.fromkeys(direct))}
    if fetches(spec) and images.ca_files:
        values["SSL_CERT_FILE"] = given_path(spec, settings, CA_FILE)
    if spec.pulled:
        values |= {name: caller[name] for name in MLFLOW_LOGIN if caller.get(name)}
    return values | dict(spec.environment)


def mounts_of(spec: DeploymentSpec, place: Place, settings: DockerSettings) -> list[dict[str, Any]]:
    """Everything of this machine that the container sees (as the engine's API takes it)."""

    def folder(source: Path, target: str, *, read_only: bool = False) -> dict[str, Any]:
        return {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": read_only}

    def volume(source: str, target: str) -> dict[str, Any]:
        return {"Type": "volume", "Source": source, "Target": target, "ReadOnly": False}

    named = settings.segments_volume
    mounts = [folder(place.segments, SEGMENTS) if named is None else volume(named, SEGMENTS)]
    if place.run is not None:
        mounts.append(folder(place.run, RUN))
    if fetches(spec):
        kept = settings.cache_volume
        mounts.append(folder(place.cache, CACHE) if kept is None else volume(kept, CACHE))
    if place.given is not None:
        mounts.append(folder(place.given, GIVEN, read_only=True))
    return mounts


def options_of(
    spec: DeploymentSpec, place: Place, settings: DockerSettings, images: ImageSettings, caller: Mapping[str, str]
) -> dict[str, Any]:
    """The container as the docker SDK's ``containers.create`` takes it, without the image."""
    return {
        "name": place.container,
        "command": command_of(spec, settings),
        "environment": environment_of(spec, settings, images, caller),
        "labels": {STACK_LABEL: place.stack, DEPLOYMENT_LABEL: spec.name},
        "mounts": mounts_of(spec, place, settings),
        "user": place.user,
        "restart_policy": first_restarts(settings),
        **_hardened(settings),
        **_limits(settings),
        **_network(spec, place, settings),
    }


def first_restarts(settings: DockerSettings) -> dict[str, Any]:
    """Restarts until the server was ready for the first time: the engine itself gives up a crash loop."""
    if settings.restart == "no":
        return no_restarts()
    return {"Name": "on-failure", "MaximumRetryCount": TRIES - 1}


def lasting_restarts(settings: DockerSettings) -> dict[str, Any]:
    """Restarts from then on.

    Not the engine's unless-stopped: after a crash of its own it takes what it had to stop itself for stopped by a person.
    """
    return {"Name": settings.restart, "MaximumRetryCount": 0}


def no_restarts() -> dict[str, Any]:
    """Restarts of what is drained."""
    return {"Name": "no", "MaximumRetryCount": 0}


def _hardened(settings: DockerSettings) -> dict[str, Any]:
    return {
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "tmpfs": {"/tmp": f"rw,nosuid,nodev,noexec,size={settings.tmp_mb}m,mode=1777"},  # noqa: S108
        "init": True,
    }


def _limits(settings: DockerSettings) -> dict[str, Any]:
    limits: dict[str, Any] = {
        "pids_limit": settings.pids,
        "log_config": {"Type": "json-file", "Config": {"max-size": f"{settings.log_mb}m", "max-file": "2"}},
    }
    if settings.memory_mb is not None:
        limits |= {"mem_limit": settings.memory_mb * MIB, "memswap_limit": settings.memory_mb * MIB}  # no swap
    if settings.cpus is not None:
        limits["nano_cpus"] = round(settings.cpus * 1e9)
    return limits


def _network(spec: DeploymentSpec, place: Place, settings: DockerSettings) -> dict[str, Any]:
    if settings.network is None:
        return {"network_mode": settings.pull_network if fetches(spec) else "none"}
    ports = {} if place.port is None else {"ports": {f"{PORT}/tcp": ("127.0.0.1", place.port)}}
    return {"network": settings.network, **ports}
