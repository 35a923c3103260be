"""HTTP's statuses as gRPC's, and the headers by which a model server tells a gateway of them.

A gateway that bridges gRPC to HTTP posts the bare message to the call's path. There an error has its HTTP status, an empty
body of ``v2_grpc.CONTENT_TYPE``, and the headers of ``error_headers``, which the gateway makes gRPC's own of.

https://grpc.github.io/grpc/core/md_doc_statuscodes.html
"""

from __future__ import annotations

import re
from urllib.parse import quote

SERVICE = "/inference.GRPCInferenceService/"
STATUS_HEADER, MESSAGE_HEADER = "x-shipway-grpc-status", "x-shipway-grpc-message"
LONGEST_MESSAGE = 1000  # characters: clients refuse trailers of more than 8 KiB

INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, RESOURCE_EXHAUSTED = 3, 4, 5, 8
UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 12, 13, 14
_STATUSES = {
    404: NOT_FOUND,
    413: RESOURCE_EXHAUSTED,
    429: RESOURCE_EXHAUSTED,
    501: UNIMPLEMENTED,
    503: UNAVAILABLE,
    504: DEADLINE_EXCEEDED,
}
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


def status_of(http: int) -> int:
    """gRPC's number for a status of HTTP: 0 for 200, INVALID_ARGUMENT for the client's other faults, else INTERNAL."""
    if http == 200:
        return 0
    return _STATUSES.get(http, INVALID_ARGUMENT if http < 500 else INTERNAL)


def error_headers(status: int, reason: str) -> tuple[tuple[bytes, bytes], ...]:
    """What an answer over HTTP with an error's *status* says to a gateway that speaks gRPC: the code and the words."""
    words = quote(reason[:LONGEST_MESSAGE], safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")
    return (STATUS_HEADER.encode(), b"%d" % status_of(status)), (MESSAGE_HEADER.encode(), words.encode())


def timeout_seconds(text: str) -> float | None:
    """The time a client still waits by its header grpc-timeout, in seconds; None where it says nothing legible."""
    found = _TIMEOUT.fullmatch(text)
    return int(found[1]) * _UNITS[found[2]] if found else None
