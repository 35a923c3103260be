"""Which groups of long tests a build runs: those whose code changed and one more in turn, as far as the minutes go.

    .ci/choose.py [--minutes M] [--factor F] [--without NEED] [--repository FOLDER]

Prints the choice with its reasons, runs nothing.

Without a base to compare with all groups are wanted, the shortest first. With one, the changed groups take turns too: who
is first moves on with every commit, so that each comes to run where the minutes are too few for all.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from checkout import Since, since
from groups import Group, Table, matching, read


@dataclass(frozen=True)
class Choice:
    """Whether a group runs, and why or why not."""

    group: Group
    runs: bool
    reason: str


def choose(
    table: Table, of: Since, *, minutes: float, factor: float, without: frozenset[str] = frozenset()
) -> list[Choice]:
    """One choice for each group, those wanted most first. *factor* scales the budgets; *without*: needs that are not met."""
    room = _Room(minutes, factor, without)
    if of.base is None:
        return [room.take(group, "all are wanted") for group in sorted(table.groups, key=lambda group: group.minutes)]
    paths = {group.name: matching((*table.everywhere, *group.code), of.changed) for group in table.groups}
    changed = _from([group for group in table.groups if paths[group.name]], of.commits)
    others = _from([group for group in table.groups if not paths[group.name]], of.commits)
    choices = [room.take(group, f"{paths[group.name]} changed") for group in changed]
    found = False
    for group in others:
        choice = Choice(group, False, "unchanged, and another one's turn") if found else room.take(group, "its turn")
        found |= choice.runs
        choices.append(choice)
    return choices


@dataclass
class _Room:
    """The minutes that are left."""

    left: float
    factor: float
    without: frozenset[str]

    def take(self, group: Group, reason: str) -> Choice:
        """The group runs if it can and fits; one that does not leaves the room to those after it."""
        cost = group.minutes * self.factor
        if group.needs & self.without:
            return Choice(group, False, f"{reason}, but it needs {', '.join(sorted(group.needs & self.without))}")
        if cost > self.left + 1e-9:
            return Choice(group, False, f"{reason}, but it takes {cost:.1f} min and {self.left:.1f} are left")
        self.left -= cost
        return Choice(group, True, reason)


def _from(groups: list[Group], commits: int) -> list[Group]:
    """The same groups in a circle, beginning with the one whose turn it is."""
    start = commits % len(groups) if groups else 0
    return [*groups[start:], *groups[:start]]


def told(choices: Sequence[Choice], of: Since, factor: float) -> str:
    """The choice as a person reads it, a line for each group."""
    compared = of.base or f"nothing ({of.why})"
    lines = [f"Compared with {compared}, at commit {of.commits}, budgets x {factor:.2f}:"]
    for choice in sorted(choices, key=lambda choice: not choice.runs):
        word = "runs" if choice.runs else "left out"
        lines.append(f"  {word:<9}{choice.group.name:<11}{choice.group.minutes:>2g} min  {choice.reason}")
    return "\n".join(lines)


def main() -> None:
    """The choice for a checkout."""
    parser = argparse.ArgumentParser(description="Which groups of long tests a build runs, and why.")
    parser.add_argument("--minutes", type=float, default=8, help="what the groups may take together (default: 8)")
    parser.add_argument("--factor", type=float, default=1, help="how much slower this machine is than a quiet one")
    parser.add_argument("--without", action="append", default=[], help="a need that is not met here: docker")
    parser.add_argument("--repository", type=Path, default=Path(__file__).resolve().parents[1], help="the checkout")
    asked = parser.parse_args()
    table = read(asked.repository / "tests" / "groups.toml")
    of = since(asked.repository)
    choices = choose(table, of, minutes=asked.minutes, factor=asked.factor, without=frozenset(asked.without))
    print(told(choices, of, asked.factor))


if __name__ == "__main__":
    main()
