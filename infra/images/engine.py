"""The Docker engine: the one place that makes a client of it, and what its errors mean."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from infra.images.interface import ImageError, PermanentImageError, TransientImageError

if TYPE_CHECKING:
    import docker

PING_SECONDS = 10.0
BUILD_SECONDS = 1200.0  # a step of a build may say nothing for minutes while it downloads

_FULL = "no space left on device"


def host() -> str:
    """Where the engine is looked for: DOCKER_HOST, else the socket of this machine."""
    return os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


def connect(*, timeout: float = BUILD_SECONDS) -> docker.DockerClient:
    """A client of the engine that the environment names (DOCKER_HOST, DOCKER_TLS_VERIFY, DOCKER_CERT_PATH).

    The engine has answered within ``PING_SECONDS``; later calls may take *timeout* seconds each. Raises
    TransientImageError where none answers.
    """
    reach()
    import docker

    with translated("images"):
        client = docker.DockerClient.from_env(timeout=PING_SECONDS)
        client.api.timeout = timeout
        return client


def reach() -> None:
    """Raises TransientImageError where nobody listens on the engine's socket. The SDK would leave a socket of its own open
    for every try."""
    if not host().startswith("unix://"):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PING_SECONDS)
        try:
            probe.connect(host().removeprefix("unix://"))
        except OSError as error:
            raise away("images", error.strerror or str(error)) from error


@contextmanager
def connected(*, timeout: float = BUILD_SECONDS) -> Iterator[docker.DockerClient]:
    """A client, closed at the end."""
    client = connect(timeout=timeout)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turns what the docker SDK raises into TransientImageError and PermanentImageError; *what* was being done."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        meant = meaning(error, what)
        if meant is None:
            raise
        raise meant from error


def meaning(error: BaseException, what: str) -> ImageError | None:
    """What an error of the docker SDK, or of the connection under it, means; None for an error of something else."""
    import requests
    import urllib3
    from docker.errors import APIError, DockerException

    words = said(error)
    if _FULL in words.lower():
        return disk_full(what, words)
    if isinstance(error, APIError) and error.response is not None:
        if error.response.status_code < 500:
            return PermanentImageError(f"{what}: the Docker engine at {host()} refused: {words}.")
        return TransientImageError(f"{what}: the Docker engine at {host()} failed: {words}. Its log says more.")
    if isinstance(error, DockerException | requests.RequestException | urllib3.exceptions.HTTPError | OSError):
        return away(what, words)
    return None


def away(what: str, words: str) -> TransientImageError:
    """No engine answers."""
    return TransientImageError(
        f"{what}: the Docker engine at {host()} does not answer: {words}. Start it, or choose target process."
    )


def disk_full(what: str, words: str) -> PermanentImageError:
    """The engine's own disk is full; *words* are the engine's."""
    return PermanentImageError(
        f"{what}: the disk of the Docker engine at {host()} is full: {words}. Remove images and containers that nothing"
        " needs (`docker system df` shows what takes the space, `docker image rm` removes an image), then run again."
    )


def said(error: BaseException) -> str:
    """The engine's own words in *error*, in one line."""
    words = getattr(error, "explanation", None) or str(error) or type(error).__name__
    return " ".join(str(words).split()).rstrip(".")[-1200:]
