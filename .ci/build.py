"""The parts of a build one after the other, each with its budget; a failed part does not stop the later ones.

    .ci/build.py [--minutes M] [--installed SECONDS] [--factor F] [--without NEED] [--dry-run]

Exits with 1 where a part failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from checkout import since
from choose import Choice, choose, told
from groups import Table, read
from reference import factor, seconds

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Part:
    """A command with its budget, in minutes on a quiet machine."""

    name: str
    minutes: float
    command: tuple[str, ...]


@dataclass(frozen=True)
class Done:
    """A part that ended: how long it took, what it was allowed on this machine (both in seconds), and its exit code."""

    part: Part
    seconds: float
    allowed: float
    code: int

    @property
    def said(self) -> str:
        """A line of CI's report."""
        words = [f"FAILED ({self.code})" if self.code else "ok"]
        words += ["OVER BUDGET"] if self.seconds > self.allowed else []
        slower = self.allowed / (self.part.minutes * 60)
        budget = f"{self.part.minutes:g} min x {slower:.2f} = {self.allowed:.0f} s"
        return f"{self.part.name:<11}{self.seconds:>6.0f} s of {budget:<24}{', '.join(words)}"


def parts(table: Table, choices: Iterable[Choice]) -> list[Part]:
    """What a build runs, in order. The base image is made only where a chosen group needs it."""
    chosen = [choice.group for choice in choices if choice.runs]
    fixed = [("base-image", "base-image")] if any("docker" in group.needs for group in chosen) else []
    fixed += [("lint", "lint"), ("test", "test")]
    return [
        *(Part(name, table.parts[name], ("make", target)) for name, target in fixed),
        *(Part(group.name, group.minutes, ("make", "test-long", f"GROUP={group.name}")) for group in chosen),
    ]


def run(part: Part, slower: float) -> Done:
    """Runs a part to its end, without standard input, on a machine that is *slower* times slower than a quiet one."""
    print(f"\n■ {part.name}: {' '.join(part.command)}", flush=True)
    began = time.monotonic()
    code = subprocess.run(part.command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode
    done = Done(part, time.monotonic() - began, part.minutes * 60 * slower, code)
    print(f"■ {done.said}", flush=True)
    return done


def report(ended: Sequence[Done]) -> str:
    """Every part with its time, and their sum."""
    total = sum(done.seconds for done in ended)
    return "\n".join(["", *(done.said for done in ended), f"{'together':<11}{total:>6.0f} s"])


def main() -> int:
    """A build; its exit code."""
    parser = argparse.ArgumentParser(description="Runs the parts of a build, prints their times.")
    parser.add_argument("--minutes", type=float, default=8, help="what the groups may take together (default: 8)")
    parser.add_argument("--installed", type=float, default=0, help="the seconds that the installation took")
    parser.add_argument("--factor", type=float, help="how much slower this machine is than a quiet one; else measured")
    parser.add_argument("--without", action="append", default=[], help="a need that is not met here: docker")
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and run nothing")
    asked = parser.parse_args()
    table, slower = read(), asked.factor or factor(seconds())
    of = since(ROOT)
    choices = choose(table, of, minutes=asked.minutes, factor=slower, without=frozenset(asked.without))
    print(told(choices, of, slower), flush=True)
    planned = parts(table, choices)
    if asked.dry_run:
        print("\n".join(f"would run: {' '.join(part.command)}" for part in planned))
        return 0
    install = Part("install", table.parts["install"], ())
    ended = [Done(install, asked.installed, install.minutes * 60 * slower, 0)]
    ended += [run(part, slower) for part in planned]
    print(report(ended), flush=True)
    return int(any(done.code for done in ended))


if __name__ == "__main__":
    sys.exit(main())
