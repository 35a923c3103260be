"""LabelLog: what turned out to be true, appended as it comes back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bentos.serving.errors import PermanentError, TransientError
from bentos.serving.files import private_file, private_folder

MAX_LABELS = 10_000  # in one request
MAX_REQUEST_ID = 256  # characters
MAX_VALUE = 4096  # characters of a text value


class LabelError(PermanentError):
    """A label that cannot be taken; the message names it, what was found and what was expected."""


class LabelLogError(TransientError):
    """The label log cannot be written now: the disk is full or the folder is gone. Send the labels again later."""


@dataclass(frozen=True)
class Label:
    """The truth about one request; for a request of several rows a list, one value a row."""

    request_id: str
    value: Any  # a number, text, a boolean, or a list of them


def parse_labels(body: Any) -> list[Label]:
    """Labels from ``{"labels": [{"request_id", "value"}, …]}`` or one ``{"request_id", "value"}``. Raises LabelError."""
    entries = body["labels"] if isinstance(body, dict) and set(body) == {"labels"} else [body]
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_LABELS:
        raise LabelError(f"labels: expected a list of 1 to {MAX_LABELS} objects, found {_short(entries)}")
    return [_label(index, entry) for index, entry in enumerate(entries)]


def _label(index: int, entry: Any) -> Label:
    if not isinstance(entry, dict) or set(entry) != {"request_id", "value"}:
        raise LabelError(f"labels[{index}]: expected an object with request_id and value alone, found {_short(entry)}")
    identifier, value = entry["request_id"], entry["value"]
    if not isinstance(identifier, str) or not 0 < len(identifier) <= MAX_REQUEST_ID:
        raise LabelError(
            f"labels[{index}].request_id: expected text of 1 to {MAX_REQUEST_ID} characters, found {_short(identifier)}"
        )
    values = value if isinstance(value, list) else [value]
    if not values or not all(_plain(item) for item in values):
        raise LabelError(
            f"labels[{index}].value: expected a finite number, text, a boolean, or a list of them, found {_short(value)}"
        )
    return Label(identifier, value)


def _plain(value: Any) -> bool:
    if isinstance(value, float):
        return value - value == 0  # neither NaN nor infinite
    return isinstance(value, bool | int) or (isinstance(value, str) and len(value) <= MAX_VALUE)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}…"


class LabelLog:
    """Appends labels to ``<folder>/<utc hour>.jsonl``, one ``{"request_id", "value", "received_ns"}`` a line.

    Whole lines only: a batch is one write, so that readers and other writers never see half a line.
    """

    def __init__(self, folder: Path, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._folder = folder
        self._clock_ns = clock_ns

    def append(self, labels: Sequence[Label]) -> Path:
        """Writes *labels*; they are with the operating system when it returns. Raises LabelLogError."""
        now = self._clock_ns()
        hour = datetime.fromtimestamp(now / 1e9, UTC).strftime("%Y-%m-%dT%H")
        path = self._folder / f"{hour}.jsonl"
        lines = "".join(
            json.dumps({"request_id": label.request_id, "value": label.value, "received_ns": now}) + "\n"
            for label in labels
        ).encode()
        try:
            private_folder(self._folder)
            with open(path, "ab", buffering=0, opener=private_file) as file:
                size = file.seek(0, 2)
                written = file.write(lines)
                if written != len(lines):
                    file.truncate(size)
                    raise OSError(f"only {written} of {len(lines)} bytes fit")
        except OSError as error:
            raise LabelLogError(
                f"labels cannot be written to {path}: {error}. Nothing was kept; send them again."
            ) from error
        return path
