"""Segments as servers of before wrote them: a frame a record, its fields packed. Bentos sealed then still run."""

from __future__ import annotations

import struct

from bentos.serving.log.segments import KINDS, Record

MAGIC = b"SHPSEG01"
_FIXED = struct.Struct("<BBHHqqIIHHHHHII")
_LOST = struct.Struct("<BQ")
_DROPPED = 255  # the kind byte of a frame that only counts lost records
_MIRRORED, _REQUEST_CUT, _RESPONSE_CUT = 1, 2, 4


def unpack(payload: memoryview) -> tuple[list[Record], int]:
    """The record of a frame, or the count of records that its server had to drop. Raises struct.error, IndexError."""
    if payload[0] == _DROPPED:
        return [], int(_LOST.unpack(payload)[1])
    kind, flags, status, attempt, time_ns, latency_ns, request_header, response_header, *lengths = _FIXED.unpack_from(
        payload
    )
    at, parts = _FIXED.size, []
    for length in lengths:
        parts.append(bytes(payload[at : at + length]))
        at += length
    request_id, assigned, version, content_type, response_type = (part.decode("utf-8", "replace") for part in parts[:5])
    record = Record(
        request_id,
        time_ns,
        assigned,
        bool(flags & _MIRRORED),
        attempt,
        version,
        status,
        latency_ns,
        KINDS[kind],
        content_type,
        request_header,
        response_type,
        response_header,
        parts[5],
        parts[6],
        bool(flags & _REQUEST_CUT),
        bool(flags & _RESPONSE_CUT),
    )
    return [record], 0
