"""Environment: a model's pins → a lock → an interpreter that has exactly that.

    ShipwayError
    ├── TransientEnvironmentError   a package index is away
    └── PermanentEnvironmentError   the pins cannot be met together, or a package cannot be installed

uv resolves and installs, in subprocesses; environments are folders named by the digest of their lock, shared by every
version with the same lock.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bentos.serving.egress import HINT, UNKNOWN_ISSUER, for_uv
from bentos.serving.environments.lock_text import lock_digest, marked
from bentos.serving.environments.requirements import (
    SERVING,
    asked_by,
    closure,
    everything_installed,
    needed,
    project,
    unsatisfied,
)
from bentos.serving.errors import PermanentError, TransientError
from bentos.serving.files import held, writable, write_atomically

__all__ = ["SERVING", "Environments", "Lock", "PermanentEnvironmentError", "TransientEnvironmentError"]

AWAY = ("Failed to fetch", "error sending request", "Could not connect", "timed out", "dns error", "client error")
"""What uv says when it did not reach the package index."""


class TransientEnvironmentError(TransientError):
    """The package index cannot be reached, or another process has held an environment for too long."""


class PermanentEnvironmentError(PermanentError):
    """The pins contradict each other, or a pinned package cannot be installed here; the message ends with uv's words."""


@dataclass(frozen=True)
class Lock:
    """What an environment holds. *text* is a requirements file, one ``name==version`` and its hashes an entry.

    *own*: the stack's own interpreter satisfies every pin and is used as it is; *text* then lists what is installed of
    the pins' closure, without hashes. *python* is ``major.minor``. *note* is empty or says what a reader should know.
    """

    text: str
    digest: str
    python: str
    own: bool = False
    note: str = ""


@dataclass(frozen=True)
class Given:
    """What a lock is made from: see ``Environments.lock``."""

    flavor: str
    requirements: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    converters: tuple[str, ...] = ()
    python_version: str | None = None
    hashed: bool = False

    @property
    def lines(self) -> list[str]:
        """All that the environment must have."""
        return list(needed(self.requirements, flavor=self.flavor, extra=(*self.extra, *self.converters)))


class Environments:
    """The model environments below *folder*; *uv* is its binary (default: the one installed beside this interpreter).

    Several processes may use the same folder at once. *timeout* is in seconds and holds for each uv command.
    """

    def __init__(self, folder: Path, uv: Path | None = None, *, timeout: float = 900.0) -> None:
        self.folder = folder.absolute()
        self._uv = uv
        self._timeout = timeout

    def lock(
        self,
        requirements: Sequence[str],
        *,
        flavor: str,
        extra: Sequence[str] = (),
        converters: Sequence[str] = (),
        python_version: str | None = None,
        hashed: bool = False,
    ) -> Lock:
        """The lock of an environment for a model of *flavor* with *requirements* (its pip lines) and *extra* ones.

        *converters*: Shipway's own lines of an environment that models are converted in.

        The same input gives the same lock, kept below the folder. *hashed*: never the stack's own environment, whose
        packages have no hashes; images are made from hashed locks. Raises PermanentEnvironmentError with uv's explanation
        when the pins contradict each other, TransientEnvironmentError when the package index is away.
        """
        given = Given(flavor, tuple(requirements), tuple(extra), tuple(converters), python_version, hashed)
        if (found := self.known(given)) is not None:
            return found
        minor, note = self._python(python_version)
        asked = asked_by(given.lines, requirements, extra)
        text = self._compile(given.lines, minor, asked)
        lock = Lock(text, lock_digest(minor, text, "hashed"), minor, note=note)
        with writable(self.folder, "the model's lock"):
            write_atomically(self._kept(minor, asked), json.dumps(asdict(lock)))
        return lock

    def known(self, given: Given) -> Lock | None:
        """The lock of what is *given* where nothing has to be resolved for it, which may build packages; else None."""
        lines = given.lines
        minor, note = self._python(given.python_version)
        if not given.hashed and minor == _minor() and not unsatisfied(lines):
            text = "".join(f"{line}\n" for line in closure(lines))
            return Lock(text, lock_digest(minor, text, "own"), minor, own=True, note=note)
        kept = self._kept(minor, asked_by(lines, given.requirements, given.extra))
        return Lock(**json.loads(kept.read_text())) if kept.exists() else None

    def _kept(self, minor: str, asked: Mapping[str, str]) -> Path:
        key = hashlib.sha256(json.dumps([minor, sorted(asked.items())]).encode()).hexdigest()
        return self.folder / "locks" / f"{key[:32]}.json"

    def ready(self, lock: Lock) -> Path | None:
        """The interpreter of *lock* where it is there already; nothing is made."""
        if lock.own:
            return Path(sys.executable)
        home = self.folder / lock.digest.removeprefix("sha256:")[:16]
        return home / "bin" / "python" if (home / ".complete").exists() else None

    def ensure(self, lock: Lock) -> Path:
        """The interpreter of the environment that has what *lock* says, made on first use; the stack's own where that does.

        Raises PermanentEnvironmentError or TransientEnvironmentError; nothing half-made is ever used.
        """
        if lock.own:
            changed = unsatisfied(lock.text.splitlines())
            if changed:
                raise PermanentEnvironmentError(
                    f"environment {lock.digest[:23]}: the stack's own environment no longer satisfies the lock:"
                    f" {', '.join(changed)}. Release the version again, so that it is locked anew."
                )
            return Path(sys.executable)
        home = self.folder / lock.digest.removeprefix("sha256:")[:16]
        python, complete = home / "bin" / "python", home / ".complete"
        if not complete.exists():
            with writable(self.folder, "the model's environment"), held(home.with_suffix(".lock")):
                if not complete.exists():  # else another process made it meanwhile
                    self._make(home, python, lock)
                    complete.write_text(lock.digest)
        return python

    def _make(self, home: Path, python: Path, lock: Lock) -> None:
        """Makes the environment at its final place, since virtual environments cannot be moved."""
        shutil.rmtree(home, ignore_errors=True)
        what = f"environment {lock.digest[:23]}"
        self._run(["venv", "--quiet", "--python", self._interpreter(lock.python), str(home)], what)
        requirements = home / "requirements.lock"
        requirements.write_text(lock.text)
        install = ["pip", "install", "--quiet", "--require-hashes", "--no-deps", "--python", str(python)]
        self._run([*install, "--requirements", str(requirements)], what)

    def _compile(self, lines: Sequence[str], minor: str, asked: Mapping[str, str] | None = None) -> str:
        """A hashed requirements file. Where pins leave a choice, the versions that the stack itself has are preferred.

        *asked*: who asked for each line.
        """
        with tempfile.TemporaryDirectory(prefix="shipway-lock-") as name:
            wanted, locked = Path(name) / "requirements.in", Path(name) / "requirements.lock"
            wanted.write_text("\n".join(lines) + "\n")
            locked.write_text("\n".join(everything_installed()) + "\n")
            command = ["pip", "compile", "--quiet", "--generate-hashes", "--no-header", "--annotation-style", "line"]
            command += ["--python", self._interpreter(minor), "--output-file", str(locked), str(wanted)]
            self._run(command, f"the model's requirements ({', '.join(lines)})", asked or {})
            return marked(locked.read_text(), str(wanted), asked or {})

    def _run(self, arguments: Sequence[str], what: str, asked: Mapping[str, str] | None = None) -> str:
        command = [str(self._binary()), *arguments]
        environment = {
            **os.environ,
            **for_uv(os.environ),
            "UV_COMPILE_BYTECODE": os.environ.get("UV_COMPILE_BYTECODE", "1"),  # else each process would compile
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_NO_PROGRESS": "1",
            "NO_COLOR": "1",
        }
        environment.pop("VIRTUAL_ENV", None)
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=self._timeout, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise TransientEnvironmentError(
                f"{what}: `uv {' '.join(arguments[:2])}` took longer than {self._timeout:.0f} s. Is the package index slow?"
            ) from error
        if done.returncode == 0:
            return done.stdout
        words = " ".join((done.stderr or done.stdout).split())[-1500:].rstrip(".")
        if any(sign in words for sign in UNKNOWN_ISSUER):
            raise PermanentEnvironmentError(f"{what}: the package index is not trusted: {words}. {HINT}")
        if any(sign in words for sign in AWAY):
            raise TransientEnvironmentError(f"{what}: the package index cannot be reached: {words}")
        sides = [
            f"{line} (asked for by {who})"
            for line, who in (asked or {}).items()
            if re.search(rf"(?<![\w.-]){re.escape(project(line))}(?![\w-])", words, re.IGNORECASE)
        ]
        if "unsatisfiable" in words and sides:
            raise PermanentEnvironmentError(
                f"the model's requirements cannot be met together: {', '.join(sides)}. uv says: {words}. Log the model"
                " again with pins that go together, or change build.requirements in its policy."
            )
        raise PermanentEnvironmentError(
            f"{what}: no environment can be made: {words}. Log the model again with pins that go together, or add to"
            " build.requirements in its policy."
        )

    def _binary(self) -> Path:
        beside = Path(sys.executable).parent / "uv"
        found = self._uv or (beside if beside.exists() else None) or shutil.which("uv")
        if found is None:
            raise PermanentEnvironmentError(
                f"uv: not found beside {sys.executable} nor on PATH. Install it: `pip install uv`."
            )
        return Path(found)

    def _python(self, wanted: str | None) -> tuple[str, str]:
        """The ``major.minor`` to use for a model logged with *wanted*, and a note where it is another one."""
        minor = ".".join(wanted.split(".")[:2]) if wanted else _minor()
        if minor == _minor() or self._find(minor) is not None:
            return minor, ""
        return _minor(), (
            f"the model was logged with Python {wanted}, which is not installed here; Python {_minor()} is used."
            " Pickled functions may not survive that: install the other Python, or log the model again."
        )

    def _interpreter(self, minor: str) -> str:
        return sys.executable if minor == _minor() else str(self._find(minor))

    def _find(self, minor: str) -> str | None:
        """An installed interpreter of that version, None where there is none; nothing is downloaded."""
        command = [str(self._binary()), "python", "find", "--no-python-downloads", "--system", minor]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout.strip() or None if done.returncode == 0 else None


def _minor() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"
