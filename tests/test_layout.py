"""The shape of the code: no circle of files, and files and functions of a readable length."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("bentos", "infra", "monitoring", "blocks", "flows")
FOLDERS = (*ROOMS, "tests", "benchmarks", "examples", "docs")
LONGEST_FILE = 400
LONGEST_FUNCTION = 59
LONG_FILES = {"bentos/vet/pickle_walk.py"}  # one table of what each opcode does, which is read as a whole


def files(folder: str) -> Iterator[Path]:
    return (path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, known: set[str]) -> set[str]:
    """The files of ours that *path* names in an import, wherever it stands: in a function, or for types alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None and not node.level, f"{path}:{node.lineno}: imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in names}
    return (found & known) - {name_of(path)}


def test_no_file_imports_itself_by_way_of_others() -> None:
    paths = {name_of(path): path for room in ROOMS for path in files(room)}
    left = {name: imports(path, set(paths)) for name, path in paths.items()}
    while free := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in free}
    circles = {name: sorted(others & left.keys()) for name, others in left.items()}
    assert not circles, "these import each other, or one that does: move what they share into a file of its own"


def functions(text: str) -> Iterator[tuple[str, int]]:
    """The name of each function, and its lines."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def test_files_and_functions_are_short() -> None:
    long = []
    for path in (path for folder in FOLDERS for path in files(folder)):
        text, name = path.read_text(), path.relative_to(ROOT).as_posix()
        if (lines := text.count("\n")) > LONGEST_FILE and name not in LONG_FILES:
            long.append(f"{name}: {lines} lines, expected at most {LONGEST_FILE}")
        for function, lines in functions(text):
            if lines > LONGEST_FUNCTION:
                long.append(f"{name}: {function} has {lines} lines, expected at most {LONGEST_FUNCTION}")
    assert not long
