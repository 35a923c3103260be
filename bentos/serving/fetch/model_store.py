"""ModelStore: artifact trees pulled from a registry, each kept in a folder named by its digest and checked whenever it is taken.

Standard library only: it runs before the model's environment is there.

    <folder>/<sha256>/               an artifact tree; whoever uses it holds a shared lock on the folder
    <folder>/<model>-<version>.json  which source that version had, and which digest its tree
    <folder>/.partial-…              a download that goes on; its writer holds a lock
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from bentos.serving.errors import PermanentError
from bentos.serving.fetch.artifact_tree import tree_digest
from bentos.serving.fetch.download import Rest
from bentos.serving.files import writable, write_atomically

logger = logging.getLogger("shipway.models")
SETTLE_SECONDS = 60.0  # a younger download may not be locked yet


class TamperedModelError(PermanentError):
    """A tree that is not the one asked for; it has been deleted."""


class ModelStore:
    """The trees below *folder*. Several processes may share it; a tree in use is not deleted.

    What was pulled stays locked while this object lives, and through an exec.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._held: dict[Path, int] = {}  # tree → descriptor of the lock
        weakref.finalize(self, _close, self._held)

    def pull(
        self,
        registry: str,
        model: str,
        version: str,
        digest: str | None = None,
        *,
        source: str | None = None,
        fetch: Callable[[str, Path], None] | None = None,
    ) -> Path:
        """The tree of a version; fetched from the MLflow server *registry* unless a sound one is here.

        *digest* ``sha256:…``: what the tree must be; a sound one is then taken without asking the registry. *source*: what
        the registry says that the version was made from, for who knows it. *fetch* brings a source's tree into a folder
        that is not there yet, where the server's own REST may not serve it. Raises TamperedModelError where the registry
        gives something else, DownloadError, RegistryAway, StateFolderError, and what *fetch* does.
        """
        rest = Rest(registry)
        with writable(self.folder, "the model"):
            if digest is not None and self._sound(digest):
                return self._tree(digest)
            source = source or rest.source_of(model, version)
            note = self._note(model, version)
            known = digest or _digest_of(note, source)
            if known is None or not self._sound(known):
                known = self._fetch(fetch or rest.fetch, source, f"{model}/{version}", digest)
            if _digest_of(note, source) != known:
                write_atomically(note, json.dumps({"source": source, "digest": known}))
            return self._tree(known)

    def forget_others(self, model: str, *versions: str) -> None:
        """Deletes what is kept of *model* besides *versions*, but trees that another version has or a process uses."""
        keep = {self._note(model, version) for version in versions}
        gone: set[str] = set()
        for note in self.folder.glob("*.json"):
            if note not in keep and note.stem.rpartition("-")[0] == quote(model, safe=""):
                gone.add(_read(note).get("digest", ""))
                note.unlink(missing_ok=True)
        still = {_read(note).get("digest", "") for note in self.folder.glob("*.json")}
        for digest in gone - still - {""}:
            self._release(self._tree(digest))
            _delete(self._tree(digest))

    def _sound(self, digest: str) -> bool:
        """Whether the tree is here and still what its name says; held from now on. A damaged one is deleted."""
        tree = self._tree(digest)
        if not self._hold(tree):
            return False
        try:
            found = tree_digest(tree)
        except ValueError as error:
            found = str(error)
        if found == digest:
            return True
        logger.warning("%s has the digest %s, expected %s; it is deleted and fetched again", tree, found, digest)
        self._release(tree)
        aside = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.folder))
        with suppress(FileNotFoundError):  # another process was quicker
            tree.rename(aside / "tree")
        shutil.rmtree(aside, ignore_errors=True)
        return False

    def _fetch(self, fetch: Callable[[str, Path], None], source: str, name: str, digest: str | None) -> str:
        """Downloads a tree and gives it its name; the digest. One that lies there damaged gives way to it."""
        with self.partial() as partial:
            fetch(source, partial / "tree")
            try:
                found = tree_digest(partial / "tree")
            except ValueError as error:
                raise TamperedModelError(f"{name}: {error}. Log the model again.") from error
            if digest not in (None, found):
                raise TamperedModelError(
                    f"{name}: the files that the registry gives have the digest {found}, expected {digest}, with which it"
                    " was released. They were changed since: nothing of them is kept. Register them as a new version."
                )
            tree = self._tree(found)
            if self._sound(found):
                return found
            try:
                (partial / "tree").rename(tree)
            except OSError:
                if not tree.is_dir():  # else another process fetched the same tree first
                    raise
        if not self._sound(found):
            raise TamperedModelError(f"{name}: {tree} was changed or deleted while it was fetched. Try again.")
        return found

    @contextmanager
    def partial(self) -> Iterator[Path]:
        """A folder for a download, deleted at the end; those of dead downloads are deleted first."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in self.folder.glob(".partial-*"):
            with suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > SETTLE_SECONDS:
                    _delete(left)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.folder))
        lock = os.open(partial, os.O_RDONLY)
        with suppress(OSError):  # a file system without locks: then nothing is deleted under another one's hands either
            fcntl.flock(lock, fcntl.LOCK_SH)
        try:
            yield partial
        finally:
            os.close(lock)
            shutil.rmtree(partial, ignore_errors=True)

    def _hold(self, tree: Path) -> bool:
        """Holds a shared lock on *tree*; False where it is not there."""
        if tree in self._held:
            return tree.is_dir()
        try:
            lock = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return False
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_SH)
        if not tree.is_dir() or os.fstat(lock).st_ino != tree.stat().st_ino:  # deleted just now
            os.close(lock)
            return False
        os.set_inheritable(lock, True)  # the server that takes this process over goes on holding it
        self._held[tree] = lock
        return True

    def _release(self, tree: Path) -> None:
        if (lock := self._held.pop(tree, None)) is not None:
            os.close(lock)

    def _tree(self, digest: str) -> Path:
        return self.folder / digest.removeprefix("sha256:")

    def _note(self, model: str, version: str) -> Path:
        return self.folder / f"{quote(model, safe='')}-{quote(version, safe='')}.json"


def _digest_of(note: Path, source: str) -> str | None:
    """The digest that the version's tree had when it was fetched from *source*; None where it was not."""
    kept = _read(note)
    return kept.get("digest") if kept.get("source") == source else None


def _read(note: Path) -> dict[str, str]:
    try:
        found = json.loads(note.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _close(held: dict[Path, int]) -> None:
    while held:
        os.close(held.popitem()[1])


def _delete(folder: Path) -> None:
    """Deletes *folder* unless a process holds it."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return  # in use, or on a file system without locks
    finally:
        os.close(lock)
