"""A flow starts fast: importing its module brings in nothing heavy."""

from __future__ import annotations

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
