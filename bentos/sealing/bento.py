"""Build: a model version → a sealed bento, a folder named by everything that determines it.

    BuildError
    ├── TransientBuildError   `bentoml build` did not end in time
    └── PermanentBuildError   it failed (the message ends with its log), or a sealed bento is damaged

One subprocess and one private BENTOML_HOME per build: two builds in one process would silently share the first one's
state. The digest is computed before building, so equal inputs give the same folder and no second build.
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
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from bentos.policy.build import BuildPolicy
from bentos.policy.release import ReleasePolicy
from bentos.serving.environments.environment import Lock
from bentos.serving.errors import PermanentError, ShipwayError, TransientError
from bentos.serving.fetch.artifact_tree import files_digest, tree_digest
from bentos.serving.files import writable
from bentos.serving.model.profile import Profile
from bentos.versions.model_version import ModelVersion

SERVING = "serving"
"""The folder of ``bentos`` that is sealed into every bento: what runs in the model's own environment."""

RUNTIME = "runtime"
"""The folder of a bento's ``src`` that holds what was chosen to answer in the model's place, and what was measured."""

DIGESTS = tuple(f"{what}digest" for what in ("", "runtime_", "lock_", "build_", "bento_", "code_"))
FACTS = ("model", "version", "flavor", "runtime", *DIGESTS)
"""The keys of shipway.json."""

_SCRIPT = """
import sys, bentoml
name, version, lock = sys.argv[1:]
bentoml.build(
    "bentos.serving.service:service", name=name, version=version, build_ctx=".", include=["**"],
    python={"requirements_txt": lock, "lock_packages": False, "pack_git_packages": False},
)
"""


class BuildError(ShipwayError):
    """Base of what a build raises."""


class TransientBuildError(BuildError, TransientError):
    """The build did not end in time; the machine was busy."""


class PermanentBuildError(BuildError, PermanentError):
    """The build failed, or the sealed bento is not what it says it is."""


@dataclass(frozen=True)
class SealedBento:
    """A sealed bento. *path* is its folder, *digest* is ``sha256:…`` of all that determines it, *tag* is BentoML's
    ``name:version``; *facts* is its shipway.json."""

    path: Path
    digest: str
    tag: str
    facts: Mapping[str, str]

    @property
    def model(self) -> Path:
        """The artifact tree inside, MLmodel at its root."""
        return self.path / "src" / "model"

    @property
    def source(self) -> Path:
        """What a server puts on its PYTHONPATH."""
        return self.path / "src"


def build(
    mv: ModelVersion,
    artifacts: Path,
    policy: BuildPolicy,
    lock: Lock,
    bentos: Path,
    *,
    runtime: Path | None = None,
    code: Path | None = None,
    timeout: float = 300.0,
) -> SealedBento:
    """Seals *mv*, whose artifact tree is *artifacts*, into a folder below *bentos*; an existing one is returned as it is.

    *runtime* is the folder of the runtime that was chosen (``bentos.sealing.runtime``), *lock* then that of its server;
    without one the model is served as it is. *code* is the package folder whose serving modules are sealed in (default: this one), *timeout* is in seconds.
    Raises PermanentBuildError with the end of the log, TransientBuildError on a time-out; nothing half-made is left.
    """
    modules = serving_modules(code or Path(__file__).parents[1])
    facts = _facts(mv, policy, lock, modules, runtime)
    digest = facts["bento_digest"]
    final = bentos.absolute() / digest.removeprefix("sha256:")[:16]
    with writable(bentos, "the sealed bento"):
        _seal(mv, {"model": artifacts, RUNTIME: runtime}, modules, lock, facts, final, timeout)
    return load_sealed(final)


def _seal(
    mv: ModelVersion,
    trees: Mapping[str, Path | None],
    modules: Mapping[str, Path],
    lock: Lock,
    facts: Mapping[str, str],
    final: Path,
    timeout: float,
) -> None:
    """Makes the folder *final*, unless a sound one is there."""
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=final.parent) as name:
        if final.exists():
            try:
                load_sealed(final)
                return
            except PermanentBuildError:
                final.rename(Path(name) / "damaged")
        # bentoml refuses to read files below a hidden folder, and the stack's own state lies in one (.shipway)
        with tempfile.TemporaryDirectory(prefix="shipway-build-") as outside:
            context = Path(outside).resolve() / "context"
            _lay_out(context, trees, modules, lock, facts)
            made = _run_bentoml(context, Path(name) / "home", mv, facts["bento_digest"], timeout)
        if tree_digest(made / "src" / "model") != mv.digest:
            raise PermanentBuildError(
                f"bento of {mv.name}: the artifact tree at {trees['model']} has not the digest {mv.digest} it was resolved"
                " with. Fetch it from the registry again."
            )
        try:
            made.rename(final)
        except OSError:
            if not final.exists():  # else another process sealed the same bento first
                raise


def load_sealed(path: Path) -> SealedBento:
    """The sealed bento at *path*, checked: its facts, its artifact tree, its code and its lock are what they were.

    Raises PermanentBuildError naming what is missing or changed.
    """
    path = path.absolute()
    source = path / "src"
    try:
        facts = json.loads((source / "shipway.json").read_text())
        lock = (source / "requirements.lock").read_text()
    except (OSError, ValueError) as error:
        raise PermanentBuildError(f"bento {path}: not a sealed bento: {error}. Build the version again.") from error
    missing = [key for key in FACTS if not isinstance(facts.get(key), str)] if isinstance(facts, dict) else list(FACTS)
    if missing:
        raise PermanentBuildError(
            f"bento {path}: src/shipway.json lacks {', '.join(missing)}. Build the version again."
        )
    code = {file.relative_to(source / "bentos").as_posix(): file for file in (source / "bentos").rglob("*.py")}
    found = {
        "digest": tree_digest(source / "model") if (source / "model").is_dir() else "no folder src/model",
        "code_digest": files_digest(code),
        "runtime_digest": _runtime_digest(source / RUNTIME),
        "bento_digest": _bento_digest({**facts, "lock_text": lock}),
    }
    for key, value in found.items():
        if value != facts[key]:
            raise PermanentBuildError(
                f"bento {path}: {key} is {value}, expected {facts[key]} as sealed. It was changed after sealing: remove the"
                " folder and release the version again."
            )
    digest = str(facts["bento_digest"])
    return SealedBento(path, digest, f"{_bento_name(str(facts['model']))}:{_short(digest)}", facts)


def serving_modules(package: Path) -> dict[str, Path]:
    """Relative path → file of all that is sealed of *package*: the folder SERVING, whole, and what makes it a package.

    Raises PermanentBuildError where the package has no service.
    """
    if not (package / SERVING / "service.py").is_file():
        raise PermanentBuildError(f"serving code {package}: no {SERVING}/service.py. Install shipway again.")
    files = [package / "__init__.py", *(package / SERVING).rglob("*.py")]
    return {file.relative_to(package).as_posix(): file for file in sorted(files)}


def _facts(
    mv: ModelVersion, policy: BuildPolicy, lock: Lock, modules: Mapping[str, Path], runtime: Path | None
) -> dict[str, str]:
    as_it_is = "pyfunc" if policy.runtime == "pyfunc" or mv.flavor == "python_function" else "native"
    facts = {
        "model": mv.model,
        "version": mv.version,
        "digest": mv.digest,
        "flavor": mv.flavor,
        "runtime": as_it_is if runtime is None else Profile.read(runtime).runtime,
        "runtime_digest": _runtime_digest(runtime),
        "lock_digest": lock.digest,
        "build_digest": ReleasePolicy(build=policy).build_digest(),
        "code_digest": files_digest(modules),
        "bentoml": metadata.version("bentoml"),
    }
    return {**facts, "bento_digest": _bento_digest({**facts, "lock_text": lock.text})}


def _bento_digest(facts: Mapping[str, Any]) -> str:
    text = json.dumps({key: facts[key] for key in sorted(facts) if key != "bento_digest"}, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _runtime_digest(runtime: Path | None) -> str:
    """``sha256:…`` of the folder of a runtime; "none" without one."""
    return tree_digest(runtime) if runtime is not None and runtime.is_dir() else "none"


def _lay_out(
    context: Path,
    trees: Mapping[str, Path | None],
    modules: Mapping[str, Path],
    lock: Lock,
    facts: Mapping[str, str],
) -> None:
    """The build context: what becomes ``src/`` of the bento."""
    for relative, file in modules.items():
        target = context / "bentos" / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    for name, tree in trees.items():
        if tree is not None:
            shutil.copytree(tree, context / name)
    (context / "requirements.lock").write_text(lock.text)
    (context / "shipway.json").write_text(json.dumps(dict(facts), indent=2, sort_keys=True) + "\n")


def _run_bentoml(context: Path, home: Path, mv: ModelVersion, digest: str, timeout: float) -> Path:
    """Runs `bentoml build` on *context* in a process of its own; the folder it made, still inside *home*."""
    name, version = _bento_name(mv.model), _short(digest)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("BENTOML_")},
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONPATH": str(context),
        "PYTHONDONTWRITEBYTECODE": "1",  # nothing of the build may end up in the bento
    }
    command = [sys.executable, "-c", _SCRIPT, name, version, "requirements.lock"]
    try:
        done = subprocess.run(
            command, cwd=context, env=environment, timeout=timeout, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TransientBuildError(f"bento of {mv.name}: `bentoml build` took longer than {timeout:.0f} s.") from error
    made = home / "bentos" / name / version
    if done.returncode != 0 or not made.is_dir():
        log = "\n".join(done.stdout.splitlines()[-25:])
        raise PermanentBuildError(
            f"bento of {mv.name}: `bentoml build` ended with {done.returncode}, expected 0 and a bento. Its log ends:\n{log}"
        )
    return made


def _bento_name(model: str) -> str:
    """BentoML's tags know lower-case letters, digits, '-', '_' and '.', with a letter or digit at both ends."""
    return re.sub(r"^[^a-z0-9]+|[^a-z0-9]+$", "", model.lower())[:63].rstrip("._-") or "model"


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:16]
