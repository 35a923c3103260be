"""The artifact tree of a model version: its digest, and the facts that MLflow wrote into it. No mlflow import."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NATIVE = {
    "sklearn": "mlflow.sklearn",
    "onnx": "mlflow.onnx",
    "xgboost": "mlflow.xgboost",
    "lightgbm": "mlflow.lightgbm",
}
"""Flavors loaded without mlflow, and the loader module that an MLmodel file names for each."""


def tree_digest(folder: Path, pattern: str = "*") -> str:
    """``sha256:…`` over the sorted (relative path, file sha256) pairs of every file below *folder* whose name is of *pattern*.

    Symbolic links are refused with ValueError: what they point at is outside the tree.
    """
    return files_digest({path.relative_to(folder).as_posix(): path for path in _files(folder, pattern)})


def files_digest(files: Mapping[str, Path]) -> str:
    """``sha256:…`` over the sorted pairs of *files*: relative path, sha256 of the file."""
    total = hashlib.sha256()
    for relative, path in sorted(files.items()):
        with path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{relative}\0{content}\n".encode())
    return "sha256:" + total.hexdigest()


def _files(folder: Path, pattern: str) -> list[Path]:
    found = []
    for path in folder.rglob(pattern):
        if path.is_symlink():
            raise ValueError(f"{path}: a symbolic link; an artifact tree holds only files and folders")
        if path.is_file():
            found.append(path)
    return found


def has_signature(mlmodel: Mapping[str, Any]) -> bool:
    """True where the MLmodel mapping has a signature with inputs."""
    signature = mlmodel.get("signature")
    return isinstance(signature, dict) and bool(signature.get("inputs"))


def flavor_of(mlmodel: Mapping[str, Any]) -> str:
    """The flavor whose loader gives the numbers that pyfunc would: a native one, ``python_function`` where only that can."""
    flavors = mlmodel.get("flavors") or {}
    pyfunc = flavors.get("python_function")
    for flavor, module in NATIVE.items():
        if flavor in flavors and (pyfunc is None or pyfunc.get("loader_module") == module):
            return flavor
    return "python_function"


def python_version_of(mlmodel: Mapping[str, Any]) -> str | None:
    """The Python version the model was logged with, such as ``3.11.7``."""
    pyfunc = (mlmodel.get("flavors") or {}).get("python_function") or {}
    version = pyfunc.get("python_version")
    return str(version) if version else None


def requirements_of(folder: Path) -> tuple[str, ...]:
    """The requirement lines of ``requirements.txt``, without comments; empty where the model has none."""
    path = folder / "requirements.txt"
    if not path.is_file():
        return ()
    lines = (line.split(" #")[0].strip() for line in path.read_text().splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))
