"""The state folder: made, checked and kept private before anything is started in it."""

from __future__ import annotations

import os
import tempfile

from bentos.serving.files import private_folder
from infra.settings import StackSettings
from infra.stack.part import StackError
from infra.stack.secrets import keep_given

_PROBE_BYTES = 256 * 1024


def prepare_home(settings: StackSettings) -> None:
    """Makes the folders of the stack for their owner alone, proves that they can be written, and keeps the secrets that were given as values.

    Raises StackError naming the folder and what is wrong with it: read-only, full, not a folder.
    """
    folders = [
        settings.root,
        settings.stack,
        settings.logs,
        settings.gateway,
        settings.reports,
        settings.deployments,
        settings.segments,
        settings.labels,
        settings.root / "mlflow" / "artifacts",
        settings.root / "prefect",
    ]
    folder = settings.root
    try:
        for folder in folders:
            private_folder(folder)
            folder.chmod(0o700)
        for folder in folders:
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as probe:
                if folder == settings.root:
                    probe.write(b"\0" * _PROBE_BYTES)
                    probe.flush()
                    os.fsync(probe.fileno())
        keep_given(settings)
    except OSError as error:
        raise StackError(
            f"the state folder {folder} cannot be used: {error.strerror or error}. Free space or make it writable, or "
            f"set SHIPWAY_HOME to another folder (now {settings.root})."
        ) from error
