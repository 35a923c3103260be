"""What servers are started with whose model or environment is not there yet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bentos.servers import ROOT
from tests.bentos.started import UV, Versions


@pytest.fixture(scope="session")
def versions(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Versions:
    """Registered once; each test sets the alias first."""
    return Versions.register(mlflow_server, tmp_path_factory.mktemp("download"))


@pytest.fixture(scope="session")
def start_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of images that resolve dependencies at start: uv, packaging and pyyaml alone."""
    home = tmp_path_factory.mktemp("start") / "env"
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, home], check=True)
    install = [UV, "pip", "install", "--quiet", "--require-hashes", "--python", home / "bin" / "python"]
    subprocess.run([*install, "--requirements", ROOT / "infra" / "images" / "start.txt"], check=True)
    return home / "bin" / "python"
