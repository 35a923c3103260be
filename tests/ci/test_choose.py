"""Which groups of long tests a build runs: a table of situations, each with what is chosen, and why."""

from __future__ import annotations

import pytest

from checkout import Since
from choose import Choice, choose, told
from groups import Group, Table

TABLE = Table(
    groups=(
        Group(name="kill", proves="…", minutes=8, code=("flows/release/*", "tests/e2e/test_kill.py")),
        Group(name="images", proves="…", minutes=5, code=("infra/images/*",), needs=frozenset({"docker"})),
        Group(name="stores", proves="…", minutes=4, code=("infra/stores/*", "flows/release/*")),
        Group(name="refusals", proves="…", minutes=3, code=("bentos/vet/*",)),
    ),
    everywhere=("requirements/*.txt", "pyproject.toml", ".ci/*"),
    parts={},
)
FRESH = Since(None, "the clone is shallow", commits=3)


def since(*changed: str, commits: int = 0) -> Since:
    return Since("origin/main", "", changed, commits)


def running(choices: list[Choice]) -> list[str]:
    return [choice.group.name for choice in choices if choice.runs]


def reasons(choices: list[Choice]) -> dict[str, str]:
    return {choice.group.name: choice.reason for choice in choices}


@pytest.mark.parametrize(
    ("of", "minutes", "factor", "expected"),
    [
        # no base: all, the shortest first, as far as they fit
        (FRESH, 99, 1.0, ["refusals", "stores", "images", "kill"]),
        (FRESH, 9, 1.0, ["refusals", "stores"]),
        (FRESH, 9, 2.0, ["refusals"]),
        (FRESH, 9, 4.0, []),
        # what changed, and another in turn: of kill, images, stores by the number of commits
        (since("bentos/vet/files.py", commits=0), 99, 1.0, ["refusals", "kill"]),
        (since("bentos/vet/files.py", commits=1), 99, 1.0, ["refusals", "images"]),
        (since("bentos/vet/files.py", commits=2), 99, 1.0, ["refusals", "stores"]),
        (since("bentos/vet/files.py", commits=3), 99, 1.0, ["refusals", "kill"]),
        # the one whose turn it is does not fit: the next that does
        (since("bentos/vet/files.py", commits=0), 9, 1.0, ["refusals", "images"]),
        (since("bentos/vet/files.py", commits=0), 7, 1.0, ["refusals", "stores"]),
        (since("bentos/vet/files.py", commits=0), 4, 1.0, ["refusals"]),
        # several changed: who is first moves on, and one that does not fit leaves room to those after it
        (since("flows/release/drive.py", commits=0), 9, 1.0, ["kill"]),
        (since("flows/release/drive.py", commits=1), 9, 1.0, ["stores", "refusals"]),
        (since("flows/release/drive.py", "bentos/vet/vet.py", commits=0), 11, 1.0, ["kill", "refusals"]),
        # what counts for every group
        (since("requirements/dev.txt"), 99, 1.0, ["kill", "images", "stores", "refusals"]),
        (since(".ci/run"), 99, 1.0, ["kill", "images", "stores", "refusals"]),
        (since("pyproject.toml", commits=2), 99, 1.0, ["stores", "refusals", "kill", "images"]),
        # tests of the group itself; a folder below a glob's; nothing of any group
        (since("tests/e2e/test_kill.py", commits=1), 99, 1.0, ["kill", "stores"]),
        (since("infra/stores/deeper/s3.py"), 8, 1.0, ["stores", "refusals"]),
        (since("README.md", commits=2), 9, 1.0, ["stores"]),
        (since(commits=0), 9, 1.0, ["kill"]),
    ],
)
def test_what_runs(of: Since, minutes: float, factor: float, expected: list[str]) -> None:
    choices = choose(TABLE, of, minutes=minutes, factor=factor)
    assert running(choices) == expected
    assert sorted(reasons(choices)) == sorted(group.name for group in TABLE.groups), "each has its reason"
    assert sum(choice.group.minutes for choice in choices if choice.runs) * factor <= minutes


def test_every_changed_group_comes_to_run_where_the_minutes_are_too_few_for_all() -> None:
    turns = [choose(TABLE, since(".ci/run", commits=n), minutes=8, factor=1.0) for n in range(4)]
    assert {name for choices in turns for name in running(choices)} == {"kill", "images", "stores", "refusals"}


def test_a_group_whose_need_is_not_met_leaves_its_minutes_to_others() -> None:
    choices = choose(TABLE, FRESH, minutes=15, factor=1.0, without=frozenset({"docker"}))
    assert running(choices) == ["refusals", "stores", "kill"]
    assert reasons(choices)["images"] == "all are wanted, but it needs docker"


def test_what_is_left_out_is_told_with_its_reason() -> None:
    of = since("flows/release/drive.py", commits=4)
    assert told(choose(TABLE, of, minutes=9, factor=1.5), of, 1.5).splitlines() == [
        "Compared with origin/main, at commit 4, budgets x 1.50:",
        "  runs     stores      4 min  flows/release/drive.py changed",
        "  left out kill        8 min  flows/release/drive.py changed, but it takes 12.0 min and 9.0 are left",
        "  left out images      5 min  its turn, but it takes 7.5 min and 3.0 are left",
        "  left out refusals    3 min  its turn, but it takes 4.5 min and 3.0 are left",
    ]
    assert told(choose(TABLE, FRESH, minutes=9, factor=1.0), FRESH, 1.0).startswith(
        "Compared with nothing (the clone is shallow), at commit 3, budgets x 1.00:\n  runs     refusals    3 min  all are"
    )
