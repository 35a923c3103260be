"""What the supervisor writes down for everyone else: its lock and the state of its parts."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from bentos.serving.files import private_file, private_folder
from infra.processes import runs
from infra.stack.part import PartState, PartStatus, StackError


@dataclass(frozen=True)
class StackState:
    """One moment of the stack. ``settings`` are the SHIPWAY_ variables it was started with."""

    pid: int
    identity: str  # with the pid it names one process for good
    started_at: float  # unix seconds
    parts: tuple[PartStatus, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)  # duties of the supervisor that fail now, and why

    @property
    def running(self) -> bool:
        """Whether the supervisor that wrote this still lives."""
        return runs(self.pid, self.identity)

    def part(self, name: str) -> PartStatus | None:
        """The part called *name*."""
        return next((part for part in self.parts if part.name == name), None)

    @property
    def up(self) -> bool:
        """Whether every part that is not optional is up."""
        return bool(self.parts) and all(part.up or part.optional for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``from_json`` gives an equal state back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> StackState:
        """Reads what ``to_json`` wrote; raises KeyError, TypeError or ValueError where it is none."""
        parts = tuple(PartStatus(**{**part, "state": PartState(part["state"])}) for part in values["parts"])
        return cls(**{**values, "parts": parts})


def write_state(folder: Path, state: StackState) -> None:
    """Writes *state* so that a reader sees the old or the new one, never half. Raises OSError."""
    path = folder / "state.json"
    temporary = folder / f".state.{os.getpid()}.json"
    temporary.write_text(json.dumps(state.to_json(), indent=1))
    temporary.replace(path)


def read_state(folder: Path) -> StackState | None:
    """The state last written in *folder*; None where there never was one.

    Raises StackError for a file that is no state, with what to do about it.
    """
    path = folder / "state.json"
    try:
        return StackState.from_json(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StackError(
            f"{path} is no state of a stack ({error!r}). It is safe to delete it: run 'shipway down', then 'shipway up'."
        ) from error


def take_lock(folder: Path) -> IO[str] | None:
    """The lock of the one supervisor that may run at *folder*, held while the file is open; None if it is taken."""
    file = open(private_folder(folder) / "lock", "a", opener=private_file)  # noqa: SIM115 - the caller holds it
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
