"""The runtime of a model version, chosen once: in a child of its own environment, and kept below a folder by its inputs.

    <folder>/<key>/runtime.json …   what ``bentos.runtimes.choose`` wrote; made aside, then renamed
    <folder>/<key>.lock             held while it is made, so that two processes do not both convert

Nothing here loads a model.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bentos.serving.child import child_env
from bentos.serving.environments.environment import Environments, Lock
from bentos.serving.environments.requirements import CONVERTED_FLAVOR, CONVERTERS
from bentos.serving.errors import PermanentError, ShipwayError
from bentos.serving.files import writable
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


class NotChosenError(PermanentError):
    """The child that chooses failed; the message ends with the end of what it wrote."""


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
            with_converters = _with_converters(mv, policy, environments)
        except ShipwayError as error:
            why = f"native: no environment with the converters can be made: {error}"
    key = _key(mv, policy, lock, with_converters)
    kept = folder.absolute() / key
    with writable(folder, "the model's runtime"), _held(kept):
        if not _usable(kept, why):
            shutil.rmtree(kept, ignore_errors=True)
            _make(kept, artifacts, policy, with_converters or lock, environments, why, reference, timeout)
    found = json.loads((kept / FILE).read_text())
    if found["runtime"] in CONVERTED:
        pins = [f"{name}=={version}" for name, version in sorted(found["pins"].items())]
        minor = (with_converters or lock).python
        lock = environments.lock(pins, flavor=CONVERTED_FLAVOR, python_version=minor, hashed=hashed)
    return Chosen(found["runtime"], found["reason"], kept, lock)


def _with_converters(mv: ModelVersion, policy: BuildPolicy, environments: Environments) -> Lock:
    """The lock of the model's own requirements with the converters; the environment of it is made where it is not there."""
    lock = environments.lock(
        mv.requirements,
        flavor=mv.flavor,
        extra=policy.requirements,
        converters=CONVERTERS[mv.flavor],
        python_version=mv.python_version,
    )
    environments.ensure(lock)
    return lock


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
            python = environments.ensure(lock).python
            runtime = "native" if why else policy.runtime
            _run(python, artifacts, made, runtime, reference(), timeout)
            found = json.loads((made / FILE).read_text())
        except (ShipwayError, OSError, ValueError) as error:
            for left in made.iterdir():
                left.unlink()
            found = {
                "runtime": "native",
                "reason": f"native: {error}",
                "latency": None,
                "rowwise": False,
                "rowwise_probabilities": False,
            }
            found |= {"candidates": [], "failed": True}
        if why:
            found["reason"] = why
        (made / FILE).write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
        made.rename(kept)


def _run(python: Path, artifacts: Path, output: Path, runtime: str, reference: Path | None, timeout: float) -> None:
    """The child to its end. Raises NotChosenError; its whole process group dies with a time-out."""
    command = [str(python), "-m", "bentos.runtimes.choose", "--model", str(artifacts.absolute())]
    command += ["--output", str(output), "--runtime", runtime]
    command += ["--reference", str(reference.absolute())] if reference is not None else []
    env = {**child_env(Path(__file__).parents[2]), **ONE_THREAD}
    with tempfile.TemporaryDirectory(prefix="shipway-choose-") as where:
        process = subprocess.Popen(
            command, cwd=where, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        try:
            said = process.communicate(timeout=timeout)[1]
        except subprocess.TimeoutExpired:
            raise NotChosenError(f"the choice of a runtime took longer than {timeout:g} s and was ended") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
    if process.returncode:
        words = " ".join(said.split())[-600:] or "it said nothing"
        raise NotChosenError(f"the choice of a runtime ended with {process.returncode}: {words}")


@contextmanager
def _held(kept: Path) -> Iterator[None]:
    """Holds the lock file beside *kept*; the kernel lets go of it when the holder dies."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with kept.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
