"""Upcoming: looks what an alias names, and gets a new version ready to run: its files and its interpreter."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bentos.serving.environments.interpreter import interpreter, lock_of, this_interpreter
from bentos.serving.errors import ShipwayError, TransientError
from bentos.serving.fetch.download import Rest

if TYPE_CHECKING:
    from bentos.serving.environments.environment import Environments
    from bentos.serving.fetch.model_store import ModelStore

logger = logging.getLogger("shipway.start")
LONGEST_WAIT = 60.0  # seconds between two tries while the registry or the package index is away


@dataclass(frozen=True)
class Runnable:
    """A version that can be started: its artifact tree and the interpreter that has what it asks for."""

    version: str
    tree: Path
    python: Path


@dataclass(frozen=True)
class Refusal:
    """A version that cannot be had, and why."""

    version: str
    reason: str


@dataclass(frozen=True)
class Followed:
    """``models:/name@alias`` on a registry, with the folders that its versions are kept in.

    *environments* None: every version runs in this interpreter, and what that does not have is not made.
    """

    name: str
    alias: str
    registry: str
    models: ModelStore
    environments: Environments | None

    def version(self) -> str:
        """The version the alias names now. Raises DownloadError, RegistryAway."""
        return Rest(self.registry).version_of(self.name, self.alias)

    def prepare(self, version: str) -> Runnable:
        """Fetches *version* and finds or makes its environment; quick where both are kept. Raises ShipwayError."""
        tree = self.models.pull(self.registry, self.name, version)
        if self.environments is None:
            return Runnable(version, tree, this_interpreter(tree))
        return Runnable(version, tree, interpreter(lock_of(tree, self.environments), self.environments))


class Upcoming:
    """A thread that tells *tell* of each version the alias moves to: a Runnable once it is ready, or a Refusal.

    *version* is the one that runs already. What may succeed later is tried again, ever less often, and logged once.
    """

    def __init__(
        self, followed: Followed, version: str, tell: Callable[[Runnable | Refusal], None], *, poll_seconds: float
    ) -> None:
        self._followed, self._told, self._tell, self._poll_seconds = followed, version, tell, poll_seconds
        self._away = ""
        self._keep: tuple[str, ...] = ()
        self._stop = threading.Event()

    def start(self) -> None:
        """Begins to look."""
        threading.Thread(target=self._run, name="upcoming", daemon=True).start()

    def stop(self) -> None:
        """Ends the looking; a version that is being prepared is not waited for."""
        self._stop.set()

    def keep_only(self, *versions: str) -> None:
        """Deletes what is kept of other versions, but for the one told of last, once nothing is being prepared."""
        self._keep = versions

    def _run(self) -> None:
        wait = self._poll_seconds
        while not self._stop.wait(wait):
            try:
                self._look()
                wait, self._away = self._poll_seconds, ""
            except ShipwayError as error:
                if str(error) != self._away:
                    logger.warning("models:/%s@%s: %s", self._followed.name, self._followed.alias, error)
                wait, self._away = min(wait * 2, LONGEST_WAIT), str(error)
            except Exception:
                logger.exception("models:/%s@%s: the look failed", self._followed.name, self._followed.alias)
                wait = LONGEST_WAIT

    def _look(self) -> None:
        version = self._followed.version()
        if version == self._told:
            keep, self._keep = self._keep, ()
            if keep:  # here, so that nothing is deleted while it is being fetched; what was told of may be starting
                self._followed.models.forget_others(self._followed.name, *keep, version)
            return
        news: Runnable | Refusal
        try:
            news = self._followed.prepare(version)
        except TransientError:
            raise
        except ShipwayError as error:
            news = Refusal(version, str(error))
        self._told = version
        self._tell(news)
