"""What git knows of this checkout: since when it changed, which paths, and how many commits it has."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

MAIN = "refs/remotes/origin/main"


@dataclass(frozen=True)
class Since:
    """``base``: the name of the commit that is compared with, None where there is none, and then ``why``.

    ``changed``: paths that differ from the base in the working tree, deleted ones too. ``commits``: of HEAD's history.
    """

    base: str | None
    why: str = ""
    changed: tuple[str, ...] = ()
    commits: int = 0


def since(repository: Path) -> Since:
    """Compares the checkout at *repository* with its base: origin/main, else the newest tag; an ancestor, never HEAD."""
    try:
        head = _git(repository, "rev-parse", "--verify", "HEAD")
        commits = int(_git(repository, "rev-list", "--count", "HEAD"))
        if _git(repository, "rev-parse", "--is-shallow-repository") == "true":
            return Since(None, "the clone is shallow", commits=commits)
        base = _base(repository, head)
        if base is None:
            return Since(None, "neither origin/main nor a tag is an ancestor other than HEAD", commits=commits)
        changed = _git(repository, "diff", "--name-only", "--no-renames", "-z", base, "--").split("\0")
    except FileNotFoundError:
        return Since(None, "git is not installed")
    except subprocess.CalledProcessError as error:
        return Since(None, f"git cannot say: {error.stderr.strip()}")
    return Since(
        base.removeprefix("refs/remotes/").removeprefix("refs/tags/"), "", tuple(filter(None, changed)), commits
    )


def _base(repository: Path, head: str) -> str | None:
    tags = _git(repository, "for-each-ref", "--merged=HEAD", "--sort=-creatordate", "--format=%(refname)", "refs/tags")
    main = _git(repository, "for-each-ref", "--merged=HEAD", "--format=%(refname)", MAIN)
    found = (*main.splitlines(), *tags.splitlines())
    return next((name for name in found if _git(repository, "rev-parse", f"{name}^{{commit}}") != head), None)


def _git(repository: Path, *arguments: str) -> str:
    """Its output. The owner of the checkout need not be the user: CI is root."""
    command = ["git", "-c", f"safe.directory={repository.resolve()}", "-C", str(repository), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
