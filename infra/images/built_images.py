"""BuiltImages: what is known of the images built here, one file per key. An image is trusted by its record alone."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bentos.serving.files import writable, write_atomically
from infra.images.interface import PermanentImageError


@dataclass(frozen=True)
class BuiltImage:
    """One image. *id* is the engine's ``sha256:…``, *reference* ``repository@sha256:…`` where it was pushed, else empty.
    *size* in bytes."""

    key: str
    id: str
    tag: str
    size: int
    labels: Mapping[str, str] = field(default_factory=dict)
    reference: str = ""


class BuiltImages:
    """The records below *folder*, and the locks under which images are built."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def read(self, key: str) -> BuiltImage | None:
        """The record of *key*, None where none was written. Raises PermanentImageError where it was changed since."""
        path = self._path(key, "json")
        try:
            values = json.loads(path.read_text())
            digest = values.pop("digest")
            record = BuiltImage(**values)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise PermanentImageError(
                f"image record {path}: cannot be read: {error}. Remove it and release the version again."
            ) from error
        if digest != _digest(record):
            raise PermanentImageError(
                f"image record {path}: its digest is {_digest(record)}, expected {digest} as it was written. Somebody"
                " changed it: remove it and release the version again."
            )
        return record

    def write(self, record: BuiltImage) -> None:
        """Keeps *record*, in one step."""
        text = json.dumps({**asdict(record), "digest": _digest(record)}, indent=2, sort_keys=True)
        with writable(self.folder, "the record of an image"):
            write_atomically(self._path(record.key, "json"), text + "\n")

    def sbom(self, key: str) -> Path:
        """Where the SBOM of the image lies."""
        return self._path(key, "cdx.json")

    @contextmanager
    def held(self, key: str) -> Iterator[None]:
        """Holds the image of *key*: no other process builds it. The kernel lets go when the holder dies."""
        with writable(self.folder, "the lock of an image"):
            self.folder.mkdir(parents=True, exist_ok=True)
            file = self._path(key, "lock").open("w")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _path(self, key: str, kind: str) -> Path:
        return self.folder / f"{key[:16]}.{kind}"


def _digest(record: BuiltImage) -> str:
    return "sha256:" + hashlib.sha256(json.dumps(asdict(record), sort_keys=True).encode()).hexdigest()
