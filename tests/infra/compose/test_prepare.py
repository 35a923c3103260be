"""prepare.py as a user runs it, by whatever python3 there is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from infra.stack.secrets import ensure_secrets

HERE = Path(__file__).resolve().parents[3] / "infra" / "compose"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "ca").mkdir()
    for name in ("prepare.py", ".env.example", "docker-compose.yml"):
        shutil.copy(HERE / name, tmp_path / name)
    return tmp_path


def prepare(folder, *arguments):
    command = [sys.executable, "-IS", "prepare.py", *arguments]  # -S: nothing that is installed
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_secrets_are_made_once_and_fit_together(folder):
    prepare(folder)
    secrets = {path.name: path.read_text() for path in (folder / "secrets").iterdir()}
    assert oct((folder / "secrets").stat().st_mode)[-3:] == "700"
    assert secrets["mlflow_password"] in secrets["mlflow_database"]
    assert secrets["prefect_password"] in secrets["prefect_database"]
    assert len(set(secrets.values())) == len(secrets)
    Fernet(secrets["mlflow_webhook_key"])
    (folder / "stack").mkdir()
    shutil.copy(folder / "secrets" / "stack.json", folder / "stack" / "secrets.json")
    assert ensure_secrets(folder / "stack").webhook == json.loads(secrets["stack.json"])["webhook"]
    assert "all there" in prepare(folder)
    assert {path.name: path.read_text() for path in (folder / "secrets").iterdir()} == secrets


def test_every_secret_of_the_compose_file_is_made(folder):
    prepare(folder)
    named = re.findall(r"secrets}/(\w[\w.]*)\"", (folder / "docker-compose.yml").read_text())
    assert sorted(named) == sorted(path.name for path in (folder / "secrets").iterdir())


def test_the_name_is_written_and_a_file_that_is_there_stays(folder):
    prepare(folder, "--name", "blue")
    text = (folder / ".env").read_text()
    assert "\nCOMPOSE_PROJECT_NAME=blue\n" in text
    assert re.search(r"^DOCKER_GID=\d+$", text, re.M)
    assert "left as it is" in prepare(folder, "--name", "green")
    assert (folder / ".env").read_text() == text


def test_certificate_authorities_are_copied(folder, tmp_path):
    (tmp_path / "mine.pem").write_text("an authority")
    prepare(folder, "--ca", str(tmp_path / "mine.pem"))
    assert (folder / "ca" / "ca.pem").read_text() == "an authority"


def test_every_variable_of_the_compose_files_is_explained():
    explained = set(re.findall(r"^#?([A-Z0-9_]+)=", (HERE / ".env.example").read_text(), re.M))
    used = set()
    for file in HERE.glob("docker-compose*.yml"):
        used |= set(re.findall(r"\$\{([A-Z0-9_]+)", file.read_text()))
    assert used - explained == set()
