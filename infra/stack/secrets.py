"""The stack's secrets, made once and kept readable by their owner alone."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

from infra.settings import SECRETS, StackSettings
from infra.stack.part import StackError


@dataclass(frozen=True, repr=False)
class Secrets:
    """``webhook`` signs MLflow's deliveries; ``fernet`` is the key MLflow encrypts that secret with at rest."""

    webhook: str
    fernet: str

    def __repr__(self) -> str:
        return "Secrets(webhook=***, fernet=***)"


def ensure_secrets(folder: Path) -> Secrets:
    """The secrets kept in *folder*, made when there are none.

    They must outlive a restart: without the same Fernet key MLflow cannot read its own webhooks. Raises StackError for a
    file that cannot be read as secrets.
    """
    path = folder / "secrets.json"
    if not path.exists():
        _write(path)
    try:
        values = json.loads(path.read_text())
        return Secrets(values["webhook"], values["fernet"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StackError(
            f"{path} cannot be read as the stack's secrets ({error!r}). Restore it, or delete it and the webhook "
            f"'shipway' in MLflow: 'shipway up' makes both anew."
        ) from error


def keep_given(settings: StackSettings) -> None:
    """Writes the secrets that were given as values into files of their owner alone, where the parts and flow runs read them.

    Raises OSError.
    """
    folder = settings.given_secrets
    folder.mkdir(mode=0o700, exist_ok=True)
    for name in SECRETS:
        value = getattr(settings, name)
        if value is None or value.get_secret_value() == settings.reference(name):
            continue
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".given-")
        with os.fdopen(handle, "w") as file:
            file.write(value.get_secret_value())
        Path(temporary).replace(folder / name)


def _write(path: Path) -> None:
    from cryptography.fernet import Fernet

    values = {"webhook": secrets.token_urlsafe(32), "fernet": Fernet.generate_key().decode()}
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".secrets-")  # mkstemp makes it 0600
    with os.fdopen(handle, "w") as file:
        json.dump(values, file)
    try:
        os.link(temporary, path)  # never replaces what another process made first
    except FileExistsError:
        return
    finally:
        Path(temporary).unlink()
