"""Each switch is the one its package reads."""

from __future__ import annotations

import os
import subprocess
import sys

from infra.telemetry import telemetry_off

ASK = """
from mlflow.telemetry.utils import is_telemetry_disabled
from prefect._internal.analytics.enabled import is_telemetry_enabled
from prefect.settings import PREFECT_SERVER_ANALYTICS_ENABLED
from bentoml._internal.utils.analytics.usage_stats import do_not_track
import os
print(is_telemetry_disabled(), not is_telemetry_enabled(), not PREFECT_SERVER_ANALYTICS_ENABLED.value(), do_not_track())
"""


def ask(environment: dict[str, str]) -> list[str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in telemetry_off() and name not in ("CI", "GITHUB_ACTIONS", "PYTEST_CURRENT_TEST")
    }
    answer = subprocess.run(
        [sys.executable, "-c", ASK], env={**kept, **environment}, capture_output=True, text=True, check=True
    )
    return answer.stdout.split()


def test_every_part_reads_its_switch():
    assert ask(telemetry_off()) == ["True"] * 4
