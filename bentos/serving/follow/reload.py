"""A server that follows an alias: polls the registry, tries a new version in a child, then swaps it in.

A version that cannot be fetched or loaded, that asks for packages this environment has not, or whose signature does not fit
the requests that come, is refused and the old one stays. ``python -m bentos.serving.follow.reload`` is the child: it fetches a version and
loads it once where it can do no harm.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from bentos.serving.errors import PermanentError, ShipwayError
from bentos.serving.fetch.artifact_tree import requirements_of
from bentos.serving.fetch.download import RegistryAway, Rest, split_alias
from bentos.serving.fetch.model_store import ModelStore
from bentos.serving.inputs.compatible import incompatibility
from bentos.serving.inputs.signature import load_signature, read_mlmodel

if TYPE_CHECKING:
    from bentos.serving.server.dataplane import DataPlane

logger = logging.getLogger("shipway.reload")
AWAY = 75  # the child's exit code for what may succeed later (EX_TEMPFAIL)
CHILD_SECONDS = 600.0


class RefusedVersion(PermanentError):  # noqa: N818 the version is refused, not the program wrong
    """A version that may not take over; the message says why."""


@dataclass(frozen=True)
class Alias:
    """``models:/name@alias`` on a registry, and where its versions are kept."""

    name: str
    alias: str
    registry: str
    models: ModelStore

    @staticmethod
    def parse(uri: str, registry: str, folder: Path) -> Alias:
        """Reads ``models:/name@alias``. Raises DownloadError for anything else."""
        return Alias(*split_alias(uri), registry, ModelStore(folder))

    def resolve(self) -> str:
        """The version the alias names now. Raises DownloadError, RegistryAway."""
        return Rest(self.registry).version_of(self.name, self.alias)

    def first(self, version: str) -> Path:
        """The tree of *version*, fetched by this process: it answers nobody yet. Raises ShipwayError."""
        tree = self.models.pull(self.registry, self.name, version)
        check_requirements(tree)
        return tree

    def fetch(self, version: str) -> Path:
        """The tree of *version*, fetched and loaded once by a child process.

        Raises RefusedVersion with the child's reason, RegistryAway where trying again may help.
        """
        command = [
            sys.executable,
            "-m",
            "bentos.serving.follow.reload",
            self.registry,
            self.name,
            version,
            str(self.models.folder),
        ]
        try:
            child = subprocess.run(command, capture_output=True, text=True, timeout=CHILD_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise RefusedVersion(f"{self.name}/{version} did not load within {CHILD_SECONDS:.0f} s") from None
        if child.returncode == 0:
            return self.models.pull(self.registry, self.name, version)
        lines = child.stderr.strip().splitlines() or [f"the process that loaded it ended with {child.returncode}"]
        raise (RegistryAway if child.returncode == AWAY else RefusedVersion)(lines[-1])


def check_requirements(tree: Path) -> None:
    """Raises RefusedVersion unless this interpreter has what the model at *tree* asks for; the message has both lists."""
    from bentos.serving.environments.requirements import BATCH, installed, needed, project, unsatisfied
    from bentos.serving.model.loaders import choose_flavor

    own = requirements_of(tree)
    asked = [line for line in needed(own, flavor=choose_flavor(read_mlmodel(tree))) if line in own or line not in BATCH]
    if missing := unsatisfied(asked):
        has = ", ".join(f"{name} {installed(name) or '(none)'}" for name in dict.fromkeys(map(project, asked)))
        raise RefusedVersion(
            f"it asks for {', '.join(asked)}; this environment has {has}. Not satisfied: {'; '.join(missing)}. Give the"
            " version an image of its own, or follow the alias with dependencies resolved at start"
        )


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
        from bentos.serving.server.served_model import ServedModel

        before = self._plane.live
        folder = self._alias.fetch(version)
        if reason := incompatibility(before.runner.signature, load_signature(folder)):
            raise RefusedVersion(f"its signature does not fit {before.version}'s requests: {reason}")
        self._plane.swap(ServedModel.load(folder, self._alias.name, version))
        logger.info("%s: version %s answers now, %s did", self._alias.name, version, before.version)
        self._alias.models.forget_others(self._alias.name, version, before.version)


def fetch_and_try(registry: str, model: str, version: str, folder: Path) -> None:
    """Fetches a version below *folder*, checks its requirements, loads and warms it. Raises ShipwayError."""
    from bentos.serving.server.served_model import ServedModel

    models = ModelStore(folder)  # holds the tree while it is loaded
    tree = models.pull(registry, model, version)
    check_requirements(tree)
    ServedModel.load(tree, model, version)


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
