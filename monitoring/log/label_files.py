"""Reads the labels that came back, as they are appended: one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple


class Label(NamedTuple):
    """What really happened for one request: one value, or one a row in a list."""

    request_id: str
    value: Any
    received_ns: int


class LabelReader:
    """Tails ``<folder>/*.jsonl`` from files touched since *since_ns* on.

    A last line without its newline is still being written and is left for the next poll. Lines that are no label are
    counted in ``broken`` and skipped.
    """

    def __init__(self, folder: Path, *, since_ns: int = 0) -> None:
        self.broken = 0
        self._folder = folder
        self._since_ns = since_ns
        self._offsets: dict[str, int] = {}

    def poll(self) -> list[Label]:
        """The labels appended since the last poll, file by file in the order of their names."""
        found: list[Label] = []
        for path in sorted(self._folder.glob("*.jsonl")):
            try:
                stat = path.stat()
                offset = self._offsets.get(path.name, 0)
                if stat.st_size <= offset or stat.st_mtime_ns < self._since_ns:
                    continue
                with path.open("rb") as file:
                    file.seek(offset)
                    data = file.read()
            except FileNotFoundError:
                continue  # the retention took it between listing and reading
            whole = data.rfind(b"\n") + 1
            self._offsets[path.name] = offset + whole
            found += [label for line in data[:whole].splitlines() if (label := self._label(line)) is not None]
        return found

    def _label(self, line: bytes) -> Label | None:
        try:
            values = json.loads(line)
            return Label(str(values["request_id"]), values["value"], int(values["received_ns"]))
        except (ValueError, KeyError, TypeError):
            self.broken += bool(line.strip())
            return None
