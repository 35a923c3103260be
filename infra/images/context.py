"""Build contexts: a recipe's Dockerfile and files as one archive, or as a folder, the same whoever writes them."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from infra.images.template import Recipe

BORN = 315_532_800  # 1980-01-01, the first moment a zip file can name; files of an image carry no other


def archive(recipe: Recipe, extra: Mapping[str, bytes], file: IO[bytes]) -> None:
    """Writes the context to *file* as a tar archive; *extra* files replace the recipe's own of that name.

    Every entry is root's, readable by all and writable by root alone, whatever it is on this machine.
    """
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in sorted({**recipe.files, **extra, "Dockerfile": recipe.dockerfile().encode()}.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(_plain(entry), io.BytesIO(data))
        for name, folder in sorted(recipe.trees.items()):
            tar.add(folder, name, filter=_kept)


def lay_out(recipe: Recipe, text: str, folder: Path) -> None:
    """Writes the context below *folder*, which must be empty, with *text* as its Dockerfile."""
    for name, data in {**recipe.files, "Dockerfile": text.encode()}.items():
        (folder / name).write_bytes(data)
    for name, source in recipe.trees.items():
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=_foreign, dirs_exist_ok=True)
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / name)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if _foreign(str(Path(entry.name).parent), [Path(entry.name).name]) else _plain(entry)


def _foreign(folder: str, names: list[str]) -> list[str]:
    """Bytecode of this machine's Python beside our code, which is compiled in the image; a model keeps all it has."""
    return [name for name in names if name == "__pycache__" and "model" not in Path(folder).parts]


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mtime = BORN
    if not entry.issym():
        entry.mode = 0o755 if entry.isdir() else 0o644
    return entry
