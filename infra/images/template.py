"""Dockerfiles and what lies beside them, as values. Pure: the same arguments give the same text and the same key.

Two images, one on the other. The environment image holds what a server imports (kind ``env``, from a model's lock) or what
makes that at the container's start (kind ``start``); it is made in a stage of its own, which alone knows the package
index, its authority and its proxy. The app image adds model and code.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

USER = "10001:10001"
HOME = "/opt/shipway"
CACHE = "/var/cache/shipway"
PORT = 8080

KEY_LABEL = "io.shipway.image-key"
STAGE_LABEL = "io.shipway.stage"
"""Carried by everything that a build has not finished, with the key as its value; empty on a finished image."""

_HERE = Path(__file__).parent
_LISTEN = ["--host", "0.0.0.0", "--port", str(PORT)]  # noqa: S104 (inside the container)
_PROBE = json.dumps(["python3", "-I", "-S", f"{HOME}/health.py"])
_HEALTH = f"--interval=30s --timeout=5s --start-period=120s --retries=3 CMD {_PROBE}"


@dataclass(frozen=True)
class Recipe:
    """How an image is made.

    *lines* are a Dockerfile's instructions, *files* the small files of its context by path, *trees* folders that are laid
    into it. *labels* end up on the image. *key* is the hex SHA-256 of all that determines the image, *repository* the
    local one it is tagged in, *base* what BASE stands for in the instructions.
    """

    lines: tuple[str, ...]
    repository: str
    key: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    trees: Mapping[str, Path] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    base: str = ""

    @property
    def tag(self) -> str:
        """For people; deployed is the id or the digest."""
        return f"{self.repository}:{self.key[:16]}"

    @property
    def all_labels(self) -> dict[str, str]:
        """The labels of the finished image that are Shipway's."""
        return {**self.labels, KEY_LABEL: self.key, STAGE_LABEL: ""}

    def dockerfile(self) -> str:
        """The text. Every image of the build is marked as unfinished until the last instruction."""
        lines = [f"ARG BASE={self.base}"] if self.base else []
        for line in self.lines:
            lines.append(line)
            if line.startswith("FROM "):
                lines.append(labelled({STAGE_LABEL: self.key}))
        return "\n".join([*lines, labelled(self.all_labels), ""])

    def plain(self) -> str:
        """The text for builders elsewhere: nothing is marked, and no key is known where the base is not."""
        base = [f"ARG BASE={self.base}"] if self.base else []
        return "\n".join([*base, *self.lines, labelled(self.labels), ""])


@dataclass(frozen=True)
class Content:
    """What an app image holds and fetches. *kind*: the environment image it stands on. *model*: the model is in it. *minor*: the
    Python that its lock is for, ``major.minor``."""

    kind: Literal["env", "start"]
    model: bool
    minor: str = "any"

    @property
    def source(self) -> str:
        """What the image puts on PYTHONPATH."""
        return f"{HOME}/bento/src" if self.model else f"{HOME}/code"

    @property
    def entrypoint(self) -> list[str]:
        """The command before the launcher's own arguments."""
        python = f"{HOME}/{self.kind}/bin/python"
        if self.model and self.kind == "env":
            return [python, "-m", "bentos.serving.launcher", "--bento", f"{HOME}/bento"]
        what = ["--bento", f"{HOME}/bento"] if self.model else ["--models", f"{CACHE}/models"]
        return [
            python,
            "-m",
            "bentos.serving.start",
            *what,
            *(["--envs", f"{CACHE}/envs"] if self.kind == "start" else []),
        ]

    @property
    def fetches(self) -> bool:
        """Whether a container of it keeps what it fetched in CACHE."""
        return not (self.model and self.kind == "env")


def environment_recipe(kind: Literal["env", "start"], base: str, base_id: str, lock: str, minor: str) -> Recipe:
    """The environment image on *base*, whose id is *base_id*, for Python *minor* (``any`` with kind ``start``).

    *lock* is the text of the model's lock; empty with kind ``start``.
    """
    lines = environment_lines(kind, minor)
    files = environment_files(lock)
    labels = {"org.opencontainers.image.title": f"shipway-{kind}"}
    key = _key(lines, labels, {"base": base_id, **{name: _sha(data) for name, data in files.items()}})
    return Recipe(lines, f"shipway/{kind}", key, {**files, "ca.pem": b""}, labels=labels, base=base)


def environment_lines(kind: str, minor: str, names: tuple[str, str] = ("build", "environment")) -> tuple[str, ...]:
    """The instructions of the environment image; BASE is set before them. *names* of the two stages."""
    return (
        f"FROM ${{BASE}} AS {names[0]}",
        "USER 0",
        "ARG INDEX_URL",
        "COPY ca.pem health.py requirements.lock stage.py start.txt /shipway/",
        f"RUN {json.dumps(['python3', '-I', '/shipway/stage.py', kind, minor])}",
        f"FROM ${{BASE}} AS {names[1]}",
        "USER 0",
        f"COPY --from={names[0]} {HOME} {HOME}",
        f"COPY --from={names[0]} /shipway/etc /etc",
        "ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1",
        f"HEALTHCHECK {_HEALTH}",
    )


def environment_files(lock: str) -> dict[str, bytes]:
    """What the build stage needs, but for ca.pem."""
    own = {name: (_HERE / name).read_bytes() for name in ("health.py", "stage.py", "start.txt")}
    return {**own, "requirements.lock": lock.encode()}


def app_recipe(
    content: Content, parent: Recipe, sources: Mapping[str, Path], facts: Mapping[str, str], labels: Mapping[str, str]
) -> Recipe:
    """The app image on *parent*'s. *sources*: the folders ``bentos`` and, with the model, the rest of the bento's ``src``;
    *facts*: the digests of all that is in them."""
    lines = (f"FROM {parent.tag} AS app", *app_lines(content))
    name = repository_of(labels["io.shipway.model"]) if content.model else "serving"
    key = _key(lines, labels, {"environment": parent.key, **facts})
    return Recipe(lines, f"shipway/{name}", key, trees=sources, labels=labels)


def whole_recipe(
    content: Content, base: str, lock: str, sources: Mapping[str, Path], labels: Mapping[str, str]
) -> Recipe:
    """Both images as one Dockerfile, for builders elsewhere. Arguments as of the two above."""
    lines = (*environment_lines(content.kind, content.minor), "FROM environment AS app", *app_lines(content))
    files = {**environment_files(lock), "ca.pem": b""}
    return Recipe(lines, "shipway/app", _key(lines, labels, {}), files, sources, labels, base)


def app_lines(content: Content) -> tuple[str, ...]:
    """The instructions of the app image after its FROM."""
    return (
        "USER 0",
        f"COPY src {content.source}",
        f"RUN {json.dumps([f'{HOME}/{content.kind}/bin/python', '-I', '-c', finish(content)])}",
        f"ENV PYTHONPATH={content.source}",
        f"USER {USER}",
        f"EXPOSE {PORT}",
        f"ENTRYPOINT {json.dumps(content.entrypoint)}",
        f"CMD {json.dumps(_LISTEN)}",
    )


def containerized_recipe(parent: str, bento_digest: str, base_id: str, labels: Mapping[str, str]) -> Recipe:
    """The layer on BentoML's own image *parent* (a tag) that makes it one of ours: our entry point, user and labels."""
    bento = "/home/bentoml/bento"
    python = "/app/.venv/bin/python"
    prepare = "; ".join(
        [
            "import pathlib",
            f"users = [('passwd', 'shipway:x:{USER}:shipway:/tmp:/usr/sbin/nologin'), ('group', 'shipway:x:{USER.split(':')[1]}:')]",
            "[f.write_text(f.read_text() + line + chr(10)) for f, line in ((pathlib.Path('/etc', n), x) for n, x in users)]",
            "pathlib.Path('/home/bentoml').chmod(0o755)",
        ]
    )
    lines = (
        f"FROM {parent} AS app",
        "USER 0",
        f"COPY health.py {HOME}/health.py",
        f"RUN {json.dumps([python, '-I', '-c', prepare])}",
        f"ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={bento}/src",
        f"USER {USER}",
        f"EXPOSE {PORT}",
        f"HEALTHCHECK {_HEALTH}",
        f"ENTRYPOINT {json.dumps([python, '-m', 'bentos.serving.launcher', '--bento', bento])}",
        f"CMD {json.dumps(_LISTEN)}",
    )
    files = {"health.py": (_HERE / "health.py").read_bytes()}
    key = _key(lines, labels, {"base": base_id, "bento": bento_digest, "health": _sha(files["health.py"])})
    return Recipe(lines, f"shipway/{repository_of(labels['io.shipway.model'])}", key, files, labels=labels)


def finish(content: Content) -> str:
    """Python that compiles our code, and makes the cache where containers need one; run once, as root, in the build."""
    steps = ["import compileall, os, py_compile, sys"]
    if content.minor != "any":
        found = "'.'.join(map(str, sys.version_info[:2]))"
        steps.append(
            f"{found} == '{content.minor}' or sys.exit('shipway: the base image has Python ' + {found} + ', the lock of the"
            f" model is for Python {content.minor}')"
        )
    steps += [
        "mode = py_compile.PycInvalidationMode.UNCHECKED_HASH",
        f"compileall.compile_dir('{content.source}/bentos', quiet=1, invalidation_mode=mode) or sys.exit('shipway: the code does not compile')",
    ]
    if content.fetches:
        user = ", ".join(USER.split(":"))
        steps += [f"os.makedirs('{CACHE}', 0o700)", f"os.chown('{CACHE}', {user})"]
    return "; ".join(steps)


def labelled(labels: Mapping[str, str]) -> str:
    """One LABEL instruction; nothing in a value is taken for a variable."""
    quoted = ((name, json.dumps(" ".join(value.split()), ensure_ascii=False)) for name, value in sorted(labels.items()))
    pairs = (f"{name}={value}".replace("$", "\\$") for name, value in quoted)
    return f"LABEL {' '.join(pairs)}"


def repository_of(model: str) -> str:
    """A model's name as an image repository's: lower-case letters, digits and single dashes."""
    return re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")[:100].rstrip("-") or "model"


def _key(lines: tuple[str, ...], labels: Mapping[str, str], inputs: Mapping[str, str]) -> str:
    return _sha(json.dumps([lines, sorted(labels.items()), sorted(inputs.items())]).encode())


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
