"""``python3 infra/compose/prepare.py``: the files that the stack in containers needs and the repository must not hold.

Writes ``.env`` and ``secrets/`` beside this file; what is there already stays. Standard library only: nothing of ours has
to be installed where containers run.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOCKET = Path("/var/run/docker.sock")


def write_secrets(folder: Path) -> list[str]:
    """Makes what is missing of the secrets in *folder*; names the new ones.

    The folder is its owner's alone; the files in it are readable, because each is mounted into containers that run as
    other users. A database's address is made anew from its password.
    """
    folder.mkdir(exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    new: list[str] = []

    def keep(name: str, value: str) -> str:
        path = folder / name
        if not path.exists():
            path.write_text(value)
            path.chmod(0o444)
            new.append(name)
        return path.read_text()

    keep("postgres_password", secrets.token_urlsafe(24))
    mlflow = keep("mlflow_password", secrets.token_urlsafe(24))
    prefect = keep("prefect_password", secrets.token_urlsafe(24))
    keep("mlflow_database", f"postgresql://mlflow:{mlflow}@postgres:5432/mlflow")
    keep("prefect_database", f"postgresql+asyncpg://prefect:{prefect}@postgres:5432/prefect")
    keep("s3_access_key", secrets.token_hex(10))
    keep("s3_secret_key", secrets.token_urlsafe(30))
    keep("grafana_password", secrets.token_urlsafe(18))
    fernet = keep("mlflow_webhook_key", base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
    keep("stack.json", json.dumps({"webhook": secrets.token_urlsafe(32), "fernet": fernet}))
    return new


def write_env(file: Path, values: dict[str, str]) -> bool:
    """Writes ``.env.example`` with *values* put in to *file*, unless there is one; whether it did."""
    if file.exists():
        return False
    lines = []
    for line in (HERE / ".env.example").read_text().splitlines():
        name = line.lstrip("# ").partition("=")[0]
        lines.append(f"{name}={values.pop(name)}" if name in values else line)
    file.write_text("\n".join(lines) + "\n")
    return True


def engine_group(socket: Path) -> str:
    """The group of the engine's socket; the worker and the keeper join it."""
    return str(socket.stat().st_gid) if socket.exists() else "999"


def machine_authority(environ: Mapping[str, str]) -> Path | None:
    """The file of certificate authorities that this machine names to its own tools."""
    names = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    named = (Path(environ[name]) for name in names if environ.get(name))
    return next((path for path in named if path.is_file()), None)


def main() -> None:
    """Says what was made."""
    parser = argparse.ArgumentParser(description="Makes .env and secrets/ for infra/compose.")
    parser.add_argument("--name", default="shipway", help="name of the stack: of its containers, networks and volumes")
    ca = "certificate authorities (PEM) of your package index, proxy or S3; else those that this machine names"
    parser.add_argument("--ca", type=Path, help=ca)
    chosen = parser.parse_args()
    made = write_secrets(HERE / "secrets")
    print(f"secrets: {', '.join(made) if made else 'all there'}")
    wrote = write_env(HERE / ".env", {"COMPOSE_PROJECT_NAME": chosen.name, "DOCKER_GID": engine_group(SOCKET)})
    print(f".env: {'written; look through it' if wrote else 'there already, left as it is'}")
    place = HERE / "ca" / "ca.pem"
    authority = chosen.ca or (None if place.exists() else machine_authority(os.environ))
    if authority is not None:
        shutil.copyfile(authority, place)
        print(f"ca/ca.pem: a copy of {authority}")


if __name__ == "__main__":
    main()
