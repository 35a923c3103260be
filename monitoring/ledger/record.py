"""The record a release leaves: canonical JSON that carries its own hash and that of the record before it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from monitoring.interface import PermanentMonitoringError

RECORD = "record.json"
VERDICT = "verdict.json"
POLICY = "policy.json"
NONE = "none"  # what stands for "no record before" and "no baseline"
ROOMS = ("bentos", "infra", "monitoring", "blocks", "flows")


class BrokenRecordError(PermanentMonitoringError):
    """Bytes that are not the record they should be; the message says how."""


def canonical(value: Any) -> bytes:
    """The one JSON form of *value*: sorted keys, no spaces, ASCII; raises ValueError for NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def plain(value: Any) -> Any:
    """*value* as canonical JSON can hold it: tuples as lists, numpy's scalars as Python's, NaN and infinities as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def digest(content: bytes) -> str:
    """``sha256:…`` of bytes."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def seal(content: Mapping[str, Any]) -> bytes:
    """The bytes of a record: *content* with ``hash``, the digest of its canonical JSON."""
    return canonical({**content, "hash": digest(canonical(dict(content)))})


def unseal(sealed: bytes) -> dict[str, Any]:
    """The record in *sealed*; raises BrokenRecordError where a single byte is not as it was sealed."""
    try:
        record = json.loads(sealed)
        expected = seal({key: value for key, value in record.items() if key != "hash"})
    except (ValueError, AttributeError) as error:
        raise BrokenRecordError(f"not a record: {error}") from error
    if record.get("hash") != json.loads(expected)["hash"]:
        raise BrokenRecordError(
            f"the record says hash {record.get('hash')}, its content gives {json.loads(expected)['hash']}"
        )
    if sealed != expected:
        raise BrokenRecordError("the record is not in canonical form: its bytes were changed")
    return dict(record)


def code_digest() -> str:
    """Digest of the source files of every room, as they are installed now."""
    top = Path(__file__).resolve().parents[2]
    paths = [path for room in ROOMS for path in sorted((top / room).rglob("*.py"))]
    parts = [f"{path.relative_to(top).as_posix()} {digest(path.read_bytes())}\n" for path in paths]
    return digest("".join(parts).encode())


def code() -> dict[str, str]:
    """The version and digest of the code that decides."""
    return {"version": version("shipway"), "digest": code_digest()}
