"""Records put into the prediction log as a server does it."""

from __future__ import annotations

from bentos.serving.log.segments import Record
from bentos.serving.log.writer import SegmentWriter


def put(writer: SegmentWriter, *records: Record) -> None:
    """Hands *records* to *writer*, which makes each when it packs a block."""
    for record in records:
        writer.defer(Record._make, record, len(record.request) + len(record.response))
