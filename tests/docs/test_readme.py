"""README, ARCHITECTURE and docs name only what exists, and ARCHITECTURE names every room."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from flows.console.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "examples/flights/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
ROOMS = ("flows", "blocks", "monitoring", "infra", "bentos")
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def commands(text: str) -> list[str]:
    """What stands in code: the lines of blocks that are no program's, and spans."""
    found, block = [], None
    for line in text.splitlines():
        if line.startswith("```"):
            block = None if block is not None else line.removeprefix("```").strip()
        elif block in ("", "sh", "bash"):
            found.append(line)
        elif block is None:
            found += re.findall(r"`([^`]+)`", line)
    assert block is None, "a code block is not closed"
    return found


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in map(slug, headings), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    deployed = {
        entry["entrypoint"].rpartition(":")[2].replace("_", "-") + "/" + entry["name"]
        for entry in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    }
    deployed |= {
        name.replace("/local", "/docker") for name in deployed
    }  # their twins in the pool of flows/stack/docker_pool.py
    known = {command.callback.__name__ for command in app.registered_commands if command.callback}
    for line in commands(page.read_text(encoding="utf-8")):
        for target in re.findall(r"^make ([a-z-]+)", line):
            assert target in targets, f"{page.name}: {line}"
        for command in re.findall(r"(?:^|\$\(|bin/)shipway ([a-z]+)", line):
            assert command in known, f"{page.name}: {line}"
        for name in re.findall(r"deployment run '([^']+)'", line):
            assert name in deployed, f"{page.name}: {line}"


def test_the_readme_shows_every_target_and_command_that_a_user_starts_with() -> None:
    said = "\n".join(commands((ROOT / "README.md").read_text(encoding="utf-8")))
    for command in (
        "make demo",
        "make test",
        "make up",
        "shipway env",
        "shipway status",
        "shipway verify",
        "shipway down",
    ):
        assert command in said


def test_architecture_names_every_room_and_no_other() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+) \|", text.partition("## The rooms")[2], flags=re.MULTILINE)
    listed = {name.rstrip("/") for row in rows for name in re.findall(r"`([^`]+)`", row)}
    there = {
        path.parent.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if path.name != "__init__.py"
    }
    inner = {name for name in there if name.rpartition("/")[0] in listed}  # told in the row of their room
    assert there - listed - inner == set(), "rooms that ARCHITECTURE.md does not list"
    assert [name for name in listed if not (ROOT / name).is_dir()] == [], "rooms that are not there"


def test_architecture_is_read_in_three_screens_and_names_files_that_are_there() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 150
    for name in re.findall(rf"`((?:{'|'.join(ROOMS)}|tests)/[\w/]+\.py)`", text):
        assert (ROOT / name).is_file(), name
