"""The text of a lock: a requirements file with hashes, read and cut without a resolver."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping

from bentos.serving.environments.requirements import BATCH

ALONE = "# for batch scoring alone: "
"""Begins the first line of a lock some of whose packages no server imports; images leave these out."""


def lock_digest(minor: str, text: str, kind: str) -> str:
    """``sha256:…`` of a lock for Python *minor*; *kind* is ``own`` or ``hashed``."""
    return "sha256:" + hashlib.sha256(f"{minor}\0{text}\0{kind}".encode()).hexdigest()


def python_of(text: str, digest: str) -> str | None:
    """``major.minor`` of the Python that the hashed lock *text* was made for, told by its *digest*; None where *text* is
    no hashed lock with that digest."""
    minors = (f"3.{number}" for number in range(8, 40))
    return next((minor for minor in minors if lock_digest(minor, text, "hashed") == digest), None)


def packages(text: str) -> dict[str, str]:
    """Package → its entry, the hashes with it."""
    entries = [entry for entry in re.split(r"(?m)^(?=\S)", text) if "==" in entry.split("\n")[0] and entry[0] != "#"]
    return {entry.split("==")[0]: entry for entry in entries}


def without(text: str, names: Collection[str]) -> str:
    """The lock *text* without the packages *names*."""
    return "".join(entry for name, entry in packages(text).items() if name not in names)


def served(text: str) -> str:
    """The lock *text* without what no server imports."""
    first = text.partition("\n")[0]
    return without(text, first.removeprefix(ALONE).split(", ")) if first.startswith(ALONE) else text


def marked(text: str, wanted: str, asked: Mapping[str, str]) -> str:
    """The lock *text* without uv's annotations about the file *wanted*, and with a first line that names the packages
    which Shipway's batch scoring alone asks for: not the model, not the policy, no other package.

    *asked*: requirement line → who asked for it.
    """
    alone = [
        name
        for name, entry in packages(text).items()
        if name in BATCH
        and re.findall(r"# via (.*)", entry) == [f"-r {wanted}"]
        and asked.get(name, "").startswith("Shipway")
    ]
    plain = re.sub(r"(?m)^ *# via .*\n", "", text)
    return f"{ALONE}{', '.join(alone)}\n{plain}" if alone else plain
