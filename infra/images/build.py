"""One build of one recipe: by the engine's classic builder through the SDK, or by BuildKit through the docker command.

Whatever a build leaves unfinished carries the label STAGE_LABEL with the recipe's key, so that it is found and removed:
at the end of the build, however it ends, or before the next one where the engine was gone.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bentos.serving.egress import AUTHORITIES, UNKNOWN_ISSUER, joined
from bentos.serving.environments.environment import AWAY
from infra.images import engine
from infra.images.context import archive
from infra.images.interface import ImageError, ImageSettings, PermanentImageError, TransientImageError
from infra.images.template import STAGE_LABEL, Recipe, labelled

if TYPE_CHECKING:
    import docker

PIP_AWAY = ("name resolution", "Max retries exceeded", "Connection refused", "Read timed out", "Network is unreachable")
KILLED = ("code: 137", "code: 143", "context canceled", "unexpected EOF")
LOG_LINES = 25


def build(client: docker.DockerClient, recipe: Recipe, settings: ImageSettings) -> str:
    """Builds *recipe* and gives the id of the image, which has no tag yet.

    Raises TransientImageError where the engine or the package index is away, PermanentImageError with the end of the log.
    """
    what = f"image {recipe.tag}"
    clear(client, recipe.key)
    try:
        with tempfile.TemporaryFile() as context:
            archive(recipe, _authority(settings) if "ca.pem" in recipe.files else {}, context)
            context.seek(0)
            if uses_buildkit(settings):
                return _buildkit(recipe, settings, context, what)
            return _classic(client, recipe, settings, context, what)
    finally:
        with suppress(ImageError):  # the reason of the build's end is worth more; the next build clears again
            clear(client, recipe.key)


def clear(client: docker.DockerClient, key: str) -> None:
    """Removes the containers and images that builds of *key* left unfinished."""
    from docker.errors import APIError

    engine.reach()
    mark = f"{STAGE_LABEL}={key}"
    with engine.translated("clearing up after a build"):
        for container in client.api.containers(all=True, filters={"label": mark}):
            with suppress(APIError):
                client.api.remove_container(container["Id"], force=True)
        for image in client.api.images(filters={"label": mark, "dangling": True}):
            with suppress(APIError):  # its parents go with it, but for those that a finished image stands on
                client.api.remove_image(image["Id"])


def mark(client: docker.DockerClient, base: str, tag: str, key: str) -> None:
    """Makes *tag*: the image *base* with the mark of an unfinished build of *key*, which all that is built on it bears."""
    text = f"FROM {base}\n{labelled({STAGE_LABEL: key})}\n"
    with engine.translated(f"base image {base}"):
        made = client.api.build(fileobj=io.BytesIO(text.encode()), rm=True, forcerm=True, decode=True, tag=tag)
        failed = [str(event["error"]) for event in made if "error" in event]
    if failed:
        raise PermanentImageError(f"base image {base}: cannot be built upon: {failed[0]}.")


def remove(client: docker.DockerClient, *tags: str) -> None:
    """Removes the tags, and the images that have no other."""
    from docker.errors import ImageNotFound

    with engine.translated("clearing up after a build"):
        for tag in tags:
            with suppress(ImageNotFound):
                client.api.remove_image(tag)


def uses_buildkit(settings: ImageSettings) -> bool:
    """Whether BuildKit builds here. Raises PermanentImageError where the settings ask for it and it is not there."""
    if settings.builder == "classic":
        return False
    found = shutil.which("docker") is not None and (
        subprocess.run(["docker", "buildx", "version"], capture_output=True, timeout=30, check=False).returncode == 0
    )
    if not found and settings.builder == "buildkit":
        raise PermanentImageError(
            "image builder buildkit: `docker buildx version` does not answer. Install Docker's buildx, or set"
            " SHIPWAY_IMAGE_BUILDER to auto or classic."
        )
    return found


def buildkit_command(settings: ImageSettings, id_file: Path) -> list[str]:
    """The command that builds the context on its standard input and writes the image's id to *id_file*.

    Values of build arguments come from its environment, so that no list of processes shows them.
    """
    command = ["docker", "buildx", "build", "--builder", "default", "--load", "--provenance=false", "--no-cache"]
    command += ["--progress", "plain", "--iidfile", str(id_file)]
    if settings.network is not None:
        command += ["--network", settings.network]
        command += ["--allow", "network.host"] if settings.network == "host" else []
    for name in arguments(settings):
        command += ["--build-arg", name]
    return [*command, "-"]


def arguments(settings: ImageSettings) -> dict[str, str]:
    """The build arguments: the index, and the proxy under the names that builders keep out of an image's history."""
    given = {"INDEX_URL": settings.index_url} if settings.index_url else {}
    if settings.proxy:
        given |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), settings.proxy)
        given |= dict.fromkeys(("NO_PROXY", "no_proxy"), settings.no_proxy) if settings.no_proxy else {}
    return given


def _classic(
    client: docker.DockerClient, recipe: Recipe, settings: ImageSettings, context: IO[bytes], what: str
) -> str:
    with engine.translated(what):
        stream = client.api.build(
            fileobj=context, custom_context=True, rm=True, forcerm=True, nocache=True, decode=True,
            network_mode=settings.network, buildargs=arguments(settings),
        )  # fmt: skip
        return _followed(stream, settings, what)


def _followed(stream: Iterable[Mapping[str, Any]], settings: ImageSettings, what: str) -> str:
    """Reads the engine's stream to its end; the id of the image."""
    log, made, failed = "", "", ""
    for event in stream:
        log = (log + str(event.get("stream", "")))[-20_000:]
        made = event.get("aux", {}).get("ID", made) if isinstance(event.get("aux"), dict) else made
        failed = str(event.get("error", failed))  # read on: a stream that is left keeps its connection open
    if failed:
        raise failure(f"{log}\n{failed}", settings, what)
    if not made:
        raise engine.away(what, "the build ended without an image")
    return str(made)


def _buildkit(recipe: Recipe, settings: ImageSettings, context: IO[bytes], what: str) -> str:
    with tempfile.TemporaryDirectory(prefix="shipway-image-") as folder:
        id_file = Path(folder) / "id"
        environment = {**os.environ, **arguments(settings), "DOCKER_HOST": engine.host()}
        try:
            done = subprocess.run(
                buildkit_command(settings, id_file), env=environment, stdin=context, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, timeout=engine.BUILD_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise TransientImageError(
                f"{what}: `docker buildx build` took longer than {error.timeout:.0f} s."
            ) from error
        if done.returncode != 0 or not id_file.exists():
            raise failure(done.stdout, settings, what)
        return id_file.read_text().strip()


def failure(log: str, settings: ImageSettings, what: str) -> ImageError:
    """What the end of a build's *log* means."""
    log = re.sub(r"\x1b\[[0-9;]*m", "", log)
    for secret in (settings.index_url, settings.proxy):
        log = log.replace(secret, "…") if secret and "@" in secret else log
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    reasons = [line.rpartition("shipway: ")[2] for line in lines if "shipway: " in line]
    last = lines[-1] if lines else "no word of why"
    if "no space left on device" in log.lower():
        return engine.disk_full(what, next(line for line in reversed(lines) if "no space left" in line.lower()))
    if "Cannot connect to the Docker daemon" in log:
        return engine.away(what, last)
    if re.search(r'exec: "python3"|python3: not found', log):
        return PermanentImageError(f"{what}: {_base(settings)} has no python3. {_CHOOSE}")
    reason = reasons[-1] if reasons else ""
    if any(sign in reason for sign in UNKNOWN_ISSUER):
        return PermanentImageError(f"{what}: the package index is not trusted in the build: {reason}. {_TRUST}")
    if any(sign in reason for sign in (*AWAY, *PIP_AWAY)):
        return TransientImageError(f"{what}: the package index cannot be reached from the build: {reason}")
    if reason:
        return PermanentImageError(f"{what}: {reason}. {_CHOOSE if 'base image' in reason else ''}".rstrip())
    if any(sign in log for sign in KILLED):
        return TransientImageError(
            f"{what}: the build was killed: {last}. The Docker engine at {engine.host()} was stopped, or has not enough memory."
        )
    end = "\n".join(lines[-LOG_LINES:])
    return PermanentImageError(f"{what}: the build failed: {last}. Its log ends:\n{end}")


_CHOOSE = "Set SHIPWAY_IMAGE_BASE to a glibc Linux with that Python and its venv module, or run `make base-image`."

_TRUST = (
    "Set SHIPWAY_IMAGE_CA_FILE to a PEM file with its certificate authority; unset, the files that SSL_CERT_FILE, PIP_CERT,"
    " REQUESTS_CA_BUNDLE and pip.conf name are taken."
)


def _base(settings: ImageSettings) -> str:
    return f"the base image {settings.base}"


def _authority(settings: ImageSettings) -> dict[str, bytes]:
    """The file ca.pem of the context. Raises PermanentImageError where it cannot be read."""
    if not settings.ca_files:
        return {}
    try:
        return {"ca.pem": joined(settings.ca_files)}
    except OSError as error:
        setting = "SHIPWAY_IMAGE_CA_FILE" if settings.ca_file is not None else f"{', '.join(AUTHORITIES)} or pip.conf"
        raise PermanentImageError(
            f"certificate authorities {error.filename}: cannot be read: {error}. Correct {setting}."
        ) from error
