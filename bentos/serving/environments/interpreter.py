"""The interpreter of a model, made or found where it is needed. Standard library, packaging and pyyaml only."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from bentos.serving.environments.environment import Environments, Lock, PermanentEnvironmentError
from bentos.serving.environments.lock_text import lock_digest, served
from bentos.serving.environments.requirements import BATCH, installed, needed, project, unsatisfied
from bentos.serving.fetch.artifact_tree import flavor_of, python_version_of, requirements_of
from bentos.serving.inputs.signature import read_mlmodel

logger = logging.getLogger("shipway.start")


def environments(folder: Path) -> Environments:
    """The environments below *folder*, with uv's cache beside them: packages are linked from there, not copied."""
    os.environ.setdefault("UV_CACHE_DIR", str(folder.absolute() / ".uv"))
    return Environments(folder)


def lock_in(file: Path) -> Lock:
    """The hashed lock in *file*, for this Python. Raises PermanentEnvironmentError where it has no hashes."""
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise PermanentEnvironmentError(f"lock {file}: cannot be read: {error}. Release the version again.") from error
    if "--hash=" not in text:
        raise PermanentEnvironmentError(
            f"lock {file}: expected name==version with --hash=… entries, found no hash. Release the version for images, so"
            " that it is locked with hashes."
        )
    return _for_serving(text, f"{sys.version_info.major}.{sys.version_info.minor}")


def lock_of(tree: Path, where: Environments) -> Lock:
    """The hashed lock that the artifact tree's own requirements resolve to; resolved once, then kept.

    Raises SignatureError, PermanentEnvironmentError, TransientEnvironmentError.
    """
    mlmodel = read_mlmodel(tree)
    lock = where.lock(
        requirements_of(tree),
        flavor=flavor_of(mlmodel),
        python_version=python_version_of(mlmodel),
        hashed=True,
    )
    if lock.note:
        logger.warning("%s", lock.note)
    return _for_serving(lock.text, lock.python)


def _for_serving(text: str, minor: str) -> Lock:
    """The lock without what no server imports, named by what is left."""
    text = served(text)
    return Lock(text, lock_digest(minor, text, "hashed"), minor)


def interpreter(lock: Lock, where: Environments) -> Path:
    """The interpreter that has what *lock* says; made on first use, every file checked against its hash.

    Raises PermanentEnvironmentError, TransientEnvironmentError, StateFolderError.
    """
    python = where.ensure(lock)
    if not python.exists():  # the cache outlived the Python that it was made with
        (python.parents[1] / ".complete").unlink(missing_ok=True)
        python = where.ensure(lock)
    return python


def this_interpreter(tree: Path) -> Path:
    """The interpreter that runs this, for the model at *tree*.

    Raises PermanentEnvironmentError unless it has what the model asks for; the message has both lists. SignatureError.
    """
    own = requirements_of(tree)
    asked = [line for line in needed(own, flavor=flavor_of(read_mlmodel(tree))) if line in own or line not in BATCH]
    if missing := unsatisfied(asked):
        has = ", ".join(f"{name} {installed(name) or '(none)'}" for name in dict.fromkeys(map(project, asked)))
        raise PermanentEnvironmentError(
            f"it asks for {', '.join(asked)}; this environment has {has}. Not satisfied: {'; '.join(missing)}. Give the"
            " version an image of its own, or follow the alias with dependencies resolved at start (--envs)"
        )
    return Path(sys.executable)
