"""A server that follows an alias: polls the registry, tries a new version in a child, then swaps it in.

A version that cannot be fetched or loaded, or whose signature does not fit the requests that come, is refused and the
old one stays. ``python -m bentos.reload`` is the child: it fetches a version and loads it once where it can do no harm.
"""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from bentos.compatible import incompatibility
from bentos.download import DownloadError, RegistryAway, Rest
from bentos.errors import PermanentError, ShipwayError

if TYPE_CHECKING:
    from bentos.dataplane import DataPlane

logger = logging.getLogger("shipway.reload")
AWAY = 75  # the child's exit code for what may succeed later (EX_TEMPFAIL)
CHILD_SECONDS = 600.0


class RefusedVersion(PermanentError):  # noqa: N818 the version is refused, not the program wrong
    """A version that may not take over; the message says why."""


@dataclass(frozen=True)
class Alias:
    """``models:/name@alias`` on a registry, and the folder its versions are kept in."""

    name: str
    alias: str
    registry: str
    folder: Path

    @staticmethod
    def parse(uri: str, registry: str, folder: Path) -> Alias:
        """Reads ``models:/name@alias``. Raises DownloadError for anything else."""
        found = re.fullmatch(r"models:/([^@]+)@([^@/]+)", uri)
        if found is None:
            raise DownloadError(f"--follow {uri!r}: expected models:/NAME@ALIAS")
        return Alias(found[1], found[2], registry, folder)

    def resolve(self) -> str:
        """The version the alias names now. Raises DownloadError, RegistryAway."""
        return Rest(self.registry).version_of(self.name, self.alias)

    def fetch(self, version: str) -> Path:
        """The folder of *version*, fetched and loaded once by a child process.

        Raises RefusedVersion with the child's reason, RegistryAway where trying again may help.
        """
        folder = self.folder / self._folder_name(version)
        if folder.is_dir():
            return folder
        command = [sys.executable, "-m", "bentos.reload", self.registry, self.name, version, str(folder)]
        try:
            child = subprocess.run(command, capture_output=True, text=True, timeout=CHILD_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise RefusedVersion(f"{self.name}/{version} did not load within {CHILD_SECONDS:.0f} s") from None
        if child.returncode == 0:
            return folder
        lines = child.stderr.strip().splitlines() or [f"the process that loaded it ended with {child.returncode}"]
        raise (RegistryAway if child.returncode == AWAY else RefusedVersion)(lines[-1])

    def _folder_name(self, version: str) -> str:
        return f"{quote(self.name, safe='')}-{version}"

    def forget_others(self, *versions: str) -> None:
        """Deletes the folders of versions that are not among *versions*."""
        keep = {self._folder_name(version) for version in versions}
        for folder in self.folder.iterdir():
            if folder.name.startswith(self._folder_name("")) and folder.name not in keep:
                shutil.rmtree(folder, ignore_errors=True)  # what cannot be deleted now is tried at the next change


class Follower:
    """A thread that keeps *plane* on the version the alias names. A context manager: it stops on exit."""

    def __init__(self, alias: Alias, plane: DataPlane, *, poll_seconds: float = 2.0) -> None:
        self._alias, self._plane, self._poll_seconds = alias, plane, poll_seconds
        self._refused = ""  # the version refused last: not tried again until the alias moves
        self._away = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follow-alias", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=1.0)  # a child may still be loading; it is not waited for

    def _run(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            try:
                self.look()
                self._away = ""
            except ShipwayError as error:
                if str(error) != self._away:  # once for each reason, not at every poll
                    logger.warning("models:/%s@%s: %s", self._alias.name, self._alias.alias, error)
                self._away = str(error)
            except Exception:
                logger.exception("models:/%s@%s: the look at the registry failed", self._alias.name, self._alias.alias)

    def look(self) -> None:
        """One look at the registry; takes over or refuses what it finds. Raises DownloadError, RegistryAway."""
        version = self._alias.resolve()
        if version == self._plane.live.version:
            if self._refused:  # the alias came back
                self._refused = ""
                self._plane.accept()
            return
        if version == self._refused:
            return
        try:
            self._take(version)
            self._refused = ""
        except RegistryAway:
            raise
        except ShipwayError as error:
            self._refused = version
            reason = f"{self._alias.name}/{version} is refused: {error}"
            logger.error("%s; %s goes on answering", reason, self._plane.live.version)
            self._plane.refuse(reason)

    def _take(self, version: str) -> None:
        from bentos.live import Live
        from bentos.signature import load_signature

        before = self._plane.live
        folder = self._alias.fetch(version)
        if reason := incompatibility(before.runner.signature, load_signature(folder)):
            raise RefusedVersion(f"its signature does not fit {before.version}'s requests: {reason}")
        self._plane.swap(Live.load(folder, self._alias.name, version))
        logger.info("%s: version %s answers now, %s did", self._alias.name, version, before.version)
        self._alias.forget_others(version, before.version)


def fetch_and_try(registry: str, model: str, version: str, folder: Path) -> None:
    """Downloads a version beside *folder*, loads and warms it, then renames it to *folder*. Raises ShipwayError."""
    from bentos.live import Live

    partial = folder.with_name(f".{folder.name}.partial")
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        Rest(registry).download(model, version, partial)
        Live.load(partial, model, version)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def main(arguments: list[str]) -> int:
    """The child: ``registry model version folder``. Its last line on stderr is the reason where it fails."""
    registry, model, version, folder = arguments
    try:
        fetch_and_try(registry, model, version, Path(folder))
    except RegistryAway as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return AWAY
    except ShipwayError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
