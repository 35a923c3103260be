"""The table of long tests: tests/groups.toml, read and checked.

.ci/groups.py      prints the names of the groups, one a line
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

TABLE = Path(__file__).resolve().parents[1] / "tests" / "groups.toml"
NEEDS = {"docker"}


@dataclass(frozen=True, kw_only=True)
class Group:
    """Long tests that prove one thing.

    ``minutes``: the budget on a quiet machine with two cores. ``code``: globs of paths from the repository's root, whose
    ``*`` crosses folders. ``needs``: of NEEDS.
    """

    name: str
    proves: str
    minutes: float
    code: tuple[str, ...]
    needs: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Table:
    """Every group in the table's order, the globs that count for all of them, and the minutes of CI's other parts."""

    groups: tuple[Group, ...]
    everywhere: tuple[str, ...]
    parts: dict[str, float]


def read(path: Path = TABLE) -> Table:
    """The table at *path*. ValueError: a group lacks a key, has one too many, or a value that cannot be."""
    said = tomllib.loads(path.read_text(encoding="utf-8"))
    groups = tuple(_group(path, name, values) for name, values in said.get("groups", {}).items())
    return Table(groups, tuple(said.get("everywhere", ())), dict(said.get("parts", {})))


def matching(globs: tuple[str, ...], paths: tuple[str, ...]) -> str | None:
    """The first of *paths* that one of *globs* matches."""
    return next((path for path in paths if any(fnmatchcase(path, glob) for glob in globs)), None)


def _group(path: Path, name: str, values: dict[str, Any]) -> Group:
    lists = {"code": tuple(values.get("code", ())), "needs": frozenset(values.get("needs", ()))}
    try:
        group = Group(name=name, **{**values, **lists})
    except TypeError as error:
        raise ValueError(f"{path}: group {name}: {error}. Every key is described in .ci/groups.py") from error
    if group.needs - NEEDS:
        raise ValueError(f"{path}: group {name} needs {sorted(group.needs - NEEDS)}; known are {sorted(NEEDS)}")
    if not group.minutes > 0 or not group.code:
        raise ValueError(f"{path}: group {name}: expected minutes above 0 and globs of code; give both")
    return group


if __name__ == "__main__":
    print("\n".join(group.name for group in read().groups))
