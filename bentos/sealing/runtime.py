"""The runtime of a model version, chosen once: in a child of its own environment, and kept below a folder by its inputs.

    <folder>/<key>/runtime.json …   what ``bentos.runtimes.choose`` wrote; made aside, then renamed
    <folder>/<key>.lock             held while it is made, so that two processes do not both convert

Nothing here loads a model.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bentos.children.run import run_module
from bentos.sealing.lock import lock_for
from bentos.serving.environments.environment import Environments, Lock
from bentos.serving.environments.requirements import CONVERTED_FLAVOR, CONVERTERS
from bentos.serving.errors import ShipwayError
from bentos.serving.files import held, writable
from bentos.serving.model.profile import CONVERTED, FILE
from bentos.serving.threads import ONE_THREAD

if TYPE_CHECKING:
    from bentos.policy.build import BuildPolicy
    from bentos.versions.model_version import ModelVersion

SECONDS = 600.0  # a choice that takes longer is not made: native answers
AGAIN = 3_600.0  # a choice without converters is asked for again after this long
DECIDING = (
    "runtimes",
    "serving/model",
    "serving/inputs",
)  # folders that decide what is chosen, and which bits a model is given


def no_reference() -> Path | None:
    """There is none."""
    return None


@dataclass(frozen=True)
class Chosen:
    """The runtime of a version, why it is that one, the folder that is sealed with it, and the lock it is served with."""

    runtime: str
    reason: str
    folder: Path
    lock: Lock


def choose_runtime(
    mv: ModelVersion,
    artifacts: Path,
    policy: BuildPolicy,
    lock: Lock,
    environments: Environments,
    folder: Path,
    *,
    hashed: bool = False,
    reference: Callable[[], Path | None] = no_reference,
    timeout: float = SECONDS,
) -> Chosen:
    """The runtime of *mv* under *policy*, kept below *folder*; the same inputs give the same one.

    *artifacts* is its artifact tree, *lock* that of its own environment, *hashed* whether the server's lock must have
    hashes. *reference* gives a Parquet file of rows it is tried with, and is asked only where a choice is to be made.
    Raises TransientEnvironmentError where the index is away for the chosen runtime's own lock, StateFolderError; whatever
    else goes wrong is a reason for native.
    """
    convert = policy.runtime == "auto" and mv.flavor in CONVERTERS
    why = ""
    with_converters: Lock | None = None
    if convert:
        try:
            with_converters = lock_for(environments, mv, policy, converters=CONVERTERS[mv.flavor])
            environments.ensure(with_converters)
        except ShipwayError as error:
            why = f"native: no environment with the converters can be made: {error}"
    key = _key(mv, policy, lock, with_converters)
    kept = folder.absolute() / key
    with writable(folder, "the model's runtime"), held(kept.with_suffix(".lock")):
        if not _usable(kept, why):
            shutil.rmtree(kept, ignore_errors=True)
            _make(kept, artifacts, policy, with_converters or lock, environments, why, reference, timeout)
    found = json.loads((kept / FILE).read_text())
    if found["runtime"] in CONVERTED:
        pins = [f"{name}=={version}" for name, version in sorted(found["pins"].items())]
        minor = (with_converters or lock).python
        lock = environments.lock(pins, flavor=CONVERTED_FLAVOR, python_version=minor, hashed=hashed)
    return Chosen(found["runtime"], found["reason"], kept, lock)


def _key(mv: ModelVersion, policy: BuildPolicy, lock: Lock, with_converters: Lock | None) -> str:
    package = Path(__file__).parents[1]
    code = [file for folder in DECIDING for file in sorted((package / folder).rglob("*.py"))]
    parts = [mv.digest, policy.runtime, lock.digest, with_converters.digest if with_converters else "none"]
    parts += [hashlib.sha256(file.read_bytes()).hexdigest() for file in code]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _usable(kept: Path, why: str) -> bool:
    """Whether what is kept may be taken: what was made without converters, or by a child that failed, for AGAIN seconds."""
    try:
        age = time.time() - (kept / FILE).stat().st_mtime
        found = json.loads((kept / FILE).read_text())
        passing = bool(why or found.get("failed")) and found["reason"] is not None
    except (OSError, ValueError, KeyError):
        return False
    return not passing or age < AGAIN


def _make(
    kept: Path,
    artifacts: Path,
    policy: BuildPolicy,
    lock: Lock,
    environments: Environments,
    why: str,
    reference: Callable[[], Path | None],
    timeout: float,
) -> None:
    """Makes the folder *kept* by one rename. *why*: the reason not to convert, "" to try."""
    with tempfile.TemporaryDirectory(prefix=".choosing-", dir=kept.parent) as name:
        made = Path(name) / "runtime"
        made.mkdir()
        try:
            python = environments.ensure(lock)
            runtime = "native" if why else policy.runtime
            _choose(python, artifacts, made, runtime, reference(), timeout)
            found = json.loads((made / FILE).read_text())
        except (ShipwayError, OSError, ValueError) as error:
            for left in made.iterdir():
                left.unlink()
            why_native = f"native: {' '.join(str(error).split())}"
            found = {"runtime": "native", "reason": why_native, "candidates": [], "failed": True}
        if why:
            found["reason"] = why
        (made / FILE).write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
        made.rename(kept)


def _choose(python: Path, artifacts: Path, output: Path, runtime: str, reference: Path | None, timeout: float) -> None:
    """The child to its end. Raises ChildError in one line."""
    command = ["bentos.runtimes.choose", "--model", str(artifacts.absolute()), "--output", str(output)]
    command += ["--runtime", runtime, *(["--reference", str(reference.absolute())] if reference is not None else [])]
    run_module(
        python, Path(__file__).parents[2], command, timeout, "the choice of a runtime",
        late="the model answers as it is", environment=ONE_THREAD,
    )  # fmt: skip
