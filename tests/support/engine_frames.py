"""Takes frames of an engine's spool apart."""

import msgspec

from inference.engine_records import ENGINE_BATCH, BatchRecord
from inference.wire import Record


def unpacked(frame: Record) -> list[Record]:
    """The records in a frame: one, or those of a batch."""
    if frame.kind != ENGINE_BATCH:
        return [frame]
    batch = msgspec.json.decode(frame.data, type=BatchRecord)
    return [Record(kind, one, frame.subject, bytes(data)) for kind, one, data in batch.records]
