"""A flow starts fast: importing its module brings in nothing heavy."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = ("mlflow", "evidently", "pandas", "bentoml", "sklearn", "scipy", "pyarrow", "duckdb", "pandera")


FLOWS = ("promote", "rollback", "reconcile", "batch", "monitor")
COMMANDS = (
    "flows.console.cli",
    "flows.release.machine",
    "flows.console.status",
    "infra.receiver.receiver",
    "bentos.policy.release",
)


def test_a_flow_run_starts_prefects_engine_without_the_grammar_of_iris() -> None:
    """No flow run is named, so that the engine ends at once, with its own words."""
    command = [sys.executable, "-X", "importtime", "-m", "flows.stack.engine"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode != 0
    assert "jsonschema._format" in imported
    assert not {"rfc3987_syntax.syntax_helpers", "lark"} & imported


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [(tuple(f"flows.{flow}" for flow in FLOWS), HEAVY), (COMMANDS, ("prefect", *HEAVY))],
    ids=["flows", "commands, which need no prefect"],
)
def test_importing_is_light(modules: tuple[str, ...], heavy: tuple[str, ...]) -> None:
    """One interpreter for each list: what none of them brings in is there for none."""
    code = f"""
import sys
from importlib import import_module
for module in {modules}:
    import_module(module)
    print(*[f"{{module}}: {{name}}" for name in {heavy} if name in sys.modules], sep="\\n", end="")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == []
