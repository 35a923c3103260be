"""What passes between a wire and the data plane: a prediction request, and the answer to whatever was asked."""

from __future__ import annotations

from typing import NamedTuple

from bentos.serving.wire.interface import Body

Headers = tuple[tuple[bytes, bytes], ...]


class Request(NamedTuple):
    """What a server reads of one prediction request."""

    kind: str  # "invocations", "v2" or "grpc"
    content_type: str
    encoding: str  # Content-Encoding
    header_length: str  # Inference-Header-Content-Length as it came, "" without
    body: bytes
    accept: str = ""
    request_id: str = ""
    assigned: str = ""  # "baseline/3" or "candidate/4" as the gateway assigned it
    mirrored: bool = False
    attempt: int = 1
    seconds: float | None = None  # how long the client waits; None: it did not say


class Answer(NamedTuple):
    """A status of HTTP, the encoded body, and why it is an error."""

    status: int
    body: Body
    reason: str = ""
    headers: Headers = ()  # beside content type and length
    server: Headers = ()  # the headers of ServedModel: which version answered
