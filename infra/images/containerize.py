"""`bentoml containerize` of a sealed bento, for who wants BentoML's own image, with our contract as a thin layer on it.

It runs in a process of its own with a private BENTOML_HOME. `bentoml.container.build` returns None where it fails; here
that is an error. It is told the base image, the network and the proxy. It cannot be told an index or a certificate
authority without their ending up in the image: the base image must bring them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from infra.images import engine
from infra.images.build import PIP_AWAY, uses_buildkit
from infra.images.interface import ImageSettings, PermanentImageError, TransientImageError

if TYPE_CHECKING:
    from bentos.sealing.bento import SealedBento

UV_WITHOUT_PIP = (
    "command -v uv >/dev/null || command -v pip >/dev/null || "
    "{ python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv && ln -s /opt/uv/bin/uv /usr/local/bin/uv; }"
)
"""BentoML installs uv by pip, which Debian's python3 lacks."""

_SCRIPT = """
import sys, bentoml
tag, image, *rest = sys.argv[1:]
options = dict(option.split("=", 1) for option in rest)
made = bentoml.container.build(tag, backend="docker", image_tag=(image,), **options)
sys.exit(0 if made is not None else "bentoml.container.build returned None")
"""


def parent_tag(bento: SealedBento, base_id: str) -> str:
    """The tag of BentoML's own image of *bento* on the base *base_id*, while ours is built on it."""
    inputs = f"{bento.digest} {base_id} {metadata.version('bentoml')}"
    return f"shipway/bentoml:{hashlib.sha256(inputs.encode()).hexdigest()[:16]}"


def containerize(bento: SealedBento, settings: ImageSettings, image: str) -> None:
    """Makes the image *image* (a tag) of *bento*.

    Raises PermanentImageError with the end of BentoML's log, TransientImageError where the engine or the index is away.
    """
    what = f"`bentoml containerize` of {bento.tag}"
    with tempfile.TemporaryDirectory(prefix="shipway-bentoml-") as home:
        name, _, version = bento.tag.partition(":")
        folder = Path(home) / "bentos" / name / version
        shutil.copytree(bento.path, folder)
        for path in folder.rglob("*"):  # in the image they are another user's
            path.chmod(0o755 if path.is_dir() else 0o644)
        _adapt(folder / "bento.yaml", settings)
        try:
            done = subprocess.run(
                [sys.executable, "-c", _SCRIPT, bento.tag, image, *_options(settings)],
                env=_environment(Path(home), settings), cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, timeout=engine.BUILD_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise TransientImageError(f"{what}: took longer than {error.timeout:.0f} s.") from error
    if done.returncode != 0:
        raise _failure(done.stdout, what)


def _options(settings: ImageSettings) -> list[str]:
    return [f"network={settings.network}"] if settings.network else []


def _environment(home: Path, settings: ImageSettings) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("BENTOML_")}
    proxy = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), settings.proxy) if settings.proxy else {}
    proxy |= {"NO_PROXY": settings.no_proxy} if settings.no_proxy else {}
    return {
        **kept,
        **proxy,
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "DOCKER_HOST": engine.host(),
        "DOCKER_BUILDKIT": "1" if uses_buildkit(settings) else "0",
    }


def _adapt(path: Path, settings: ImageSettings) -> None:
    """Writes our base image into BentoML's description of the image."""
    described = yaml.safe_load(path.read_text())
    described["image"]["base_image"] = settings.base
    described["image"]["commands"] = [*described["image"].get("commands", ()), UV_WITHOUT_PIP]
    path.write_text(yaml.safe_dump(described, sort_keys=False))


def _failure(log: str, what: str) -> TransientImageError | PermanentImageError:
    lines = [line.rstrip() for line in log.splitlines() if line.strip()]
    end = "\n".join(lines[-40:])
    if "Cannot connect to the Docker daemon" in log:
        return engine.away(what, "Cannot connect to the Docker daemon")
    if "no space left on device" in log.lower():
        return engine.disk_full(what, next(line for line in reversed(lines) if "no space left" in line.lower()))
    if any(sign in log for sign in PIP_AWAY):
        return TransientImageError(f"{what}: the package index or the packages of the base cannot be reached:\n{end}")
    return PermanentImageError(
        f"{what}: no image was made. BentoML needs a base image with apt-get or a compiler of its own, and one that reaches"
        " its package index by itself, with its authority and pip.conf (SHIPWAY_IMAGE_BASE): SHIPWAY_IMAGE_INDEX_URL,"
        f" SHIPWAY_IMAGE_CA_FILE and what this machine names are for the builder shipway alone. Its log ends:\n{end}"
    )
