"""What every wire format turns bytes into, and back from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from bentos.serving.errors import PermanentError
from bentos.serving.inputs.signature import Inputs


class WireError(PermanentError):
    """A body that is no valid request of its format; the message says where, what was found and what was expected."""


class MediaTypeError(WireError):
    """A content type or encoding that the endpoint does not read."""


class NotAcceptableError(WireError):
    """The client accepts no form in which this can be answered."""


class TooLargeError(WireError):
    """A body that is longer than allowed once it is decompressed."""


@dataclass(frozen=True)
class Call:
    """A decoded request: what to predict on, and what to answer with."""

    inputs: Inputs
    params: dict[str, Any] = field(default_factory=dict)
    probabilities: bool = False  # class probabilities were asked for too


class Body(NamedTuple):
    """An encoded answer. ``header_length`` is the V2 inference header's length in bytes, 0 without binary tensors."""

    data: bytes
    content_type: str = "application/json"
    header_length: int = 0


def parse_object(body: bytes | memoryview, what: str) -> dict[str, Any]:
    """The JSON object in *body*. NaN and Infinity are read too, as MLflow's and Triton's clients write them.

    Raises WireError naming *what* for anything else.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        value = _parse_lenient(bytes(body), what, error)
    if not isinstance(value, dict):
        raise WireError(f"{what}: expected a JSON object, found {kind_of(value)}")
    return value


def _parse_lenient(body: bytes, what: str, error: ValueError) -> Any:
    if b"NaN" not in body and b"Infinity" not in body:
        raise WireError(f"{what}: expected JSON in UTF-8, found {_short(str(error))}") from None
    import json

    try:
        text = body.decode()
        value = json.loads(text)
        orjson.dumps(value)  # the same limits on depth, number size and text as every other body
    except (ValueError, RecursionError, TypeError) as lenient:
        raise WireError(f"{what}: expected JSON in UTF-8, found {_short(str(lenient))}") from None
    return value


def kind_of(value: Any) -> str:
    """The JSON name of a value's type."""
    if value is None:
        return "null"
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "an array",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:197] + "..."
