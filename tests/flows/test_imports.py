"""A flow starts fast: importing its module brings in nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("mlflow", "evidently", "pandas", "bentoml", "sklearn", "scipy", "pyarrow", "duckdb", "pandera")


@pytest.mark.parametrize("flow", ["promote", "rollback", "reconcile", "batch", "monitor"])
def test_importing_a_flow_is_light(flow: str) -> None:
    code = f"import sys, flows.{flow}; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    "module",
    [
        "flows.console.cli",
        "flows.release.machine",
        "flows.console.status",
        "infra.receiver.receiver",
        "bentos.policy.release",
    ],
)
def test_a_command_needs_no_prefect(module: str) -> None:
    code = f"import sys, {module}; print(*[name for name in ('prefect', *{HEAVY}) if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
