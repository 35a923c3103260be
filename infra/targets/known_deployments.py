"""KnownDeployments: what a target knows of its deployments, on disk, so that any process finds them again.

<folder>/<name>/deployment.json   the spec, whether it should run, and what else the target keeps
<folder>/.<name>.lock             held by the one process that changes the deployment
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from infra.targets.interface import DeploymentSpec, PermanentTargetError


class KnownDeployments:
    """The deployments under *folder*, one private folder each. Looking makes nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def home(self, name: str) -> Path:
        """The private folder of *name*."""
        return self.folder / quote(name, safe="")

    def read(self, name: str) -> dict[str, Any] | None:
        """The record of *name*, None where there is none."""
        return read_json(self.home(name) / "deployment.json")

    def known(self, name: str) -> dict[str, Any]:
        """The record of *name*. PermanentTargetError where there is none."""
        record = self.read(name)
        if record is None:
            raise PermanentTargetError(f"no deployment {name} under {self.folder}. Call ensure with its spec first.")
        return record

    def write(self, name: str, values: Mapping[str, Any]) -> None:
        """Writes the record by one rename; makes the private folder."""
        home = self.home(name)
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        home.chmod(0o700)
        write_json(home / "deployment.json", values)

    def names(self) -> Sequence[str]:
        """Every deployment on record, sorted."""
        found = [read_json(path) for path in self.folder.glob("*/deployment.json")]
        return sorted(spec_of(known).name for known in found if known is not None)

    def forget(self, name: str) -> None:
        """Deletes the private folder of *name* and its lock, which the caller holds."""
        home = self.home(name)
        if home.exists():
            shutil.rmtree(home)
        self._lock_path(name).unlink(missing_ok=True)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """One process at a time changes a deployment. The file may vanish with a removed deployment: then look again."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._lock_path(name)
        while True:
            with path.open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                    yield
                    return

    def _lock_path(self, name: str) -> Path:
        return self.folder / f".{quote(name, safe='')}.lock"


def values_of(spec: DeploymentSpec) -> dict[str, Any]:
    """A spec as plain values."""
    return {**asdict(spec), "environment": dict(spec.environment), "arguments": list(spec.arguments)}


def spec_of(record: Mapping[str, Any]) -> DeploymentSpec:
    """The spec of a record."""
    values = record["spec"]
    return DeploymentSpec(**{**values, "arguments": tuple(values.get("arguments", ()))})


def refuse_another(record: Mapping[str, Any], spec: DeploymentSpec) -> None:
    """PermanentTargetError where *record*, of a deployment that runs, is not of *spec*."""
    known, wanted = values_of(spec_of(record)), values_of(spec)
    if known != wanted:
        different = (f"{key}: {known[key]!r} is not {wanted[key]!r}" for key in wanted if known[key] != wanted[key])
        raise PermanentTargetError(
            f"deployment {spec.name} runs from another spec ({'; '.join(different)}). Remove it first."
        )


def read_json(path: Path) -> dict[str, Any] | None:
    """The values in *path*, None where there is no such file."""
    try:
        values: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return values


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes by one rename."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps(values))
    scratch.replace(path)
