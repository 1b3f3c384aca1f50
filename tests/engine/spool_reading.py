"""Reads an engine's spool back and holds it to laws 2 and 3."""

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from inference.engine_records import (
    ENGINE_BOOT,
    ENGINE_MARK,
    ENGINE_PART,
    ENGINE_SPAN,
    EngineBoot,
    MarkRecord,
    PartRecord,
    SpanRecord,
)
from inference.spool import Damage, Position, read_spool
from inference.wire import Record
from tests.support.engine_frames import unpacked

ALL_RECORDS = 10_000_000


@dataclass
class Books:
    """What one engine wrote."""

    parts: list[PartRecord] = field(default_factory=list)
    spans: list[SpanRecord] = field(default_factory=list)
    marks: list[MarkRecord] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    boots: list[EngineBoot] = field(default_factory=list)

    @property
    def boot(self) -> EngineBoot:
        """Who wrote them."""
        (only,) = self.boots
        return only


def read_books(host_folder: Path) -> Books:
    """Everything in the one engine spool below `host_folder`."""
    (spool,) = (host_folder / "engines").iterdir()
    records, _ = read_spool(spool, Position(0, 0), ALL_RECORDS)
    return books_of(frames_apart(records))


def books_of(records: list[Record]) -> Books:
    """What these records say."""
    books = Books()
    for record in records:
        books.kinds.append(record.kind)
        if record.kind == ENGINE_BOOT:
            books.boots.append(msgspec.json.decode(record.data, type=EngineBoot))
        elif record.kind == ENGINE_PART:
            books.parts.append(msgspec.json.decode(record.data, type=PartRecord))
        elif record.kind == ENGINE_SPAN:
            books.spans.append(msgspec.json.decode(record.data, type=SpanRecord))
        elif record.kind == ENGINE_MARK:
            books.marks.append(msgspec.json.decode(record.data, type=MarkRecord))
    return books


def frames_apart(frames: list[Record | Damage]) -> list[Record]:
    """All records, those in batches too."""
    assert not [one for one in frames if isinstance(one, Damage)]
    return [record for frame in frames for record in unpacked(frame)]


def residues_ns(books: Books) -> list[tuple[int, int]]:
    """Per interval: owned less where it went, attributed less its parts. All zeros, or alarm."""
    found = []
    for span in books.spans:
        one = span.interval
        spent = (
            one.attributed_ns
            + one.stall_ns
            + one.idle_ns
            + one.overhead_ns
            + one.startup_ns
            + one.open_step_end_ns
            - one.open_step_start_ns
        )
        parts_ns = sum(
            part.part.gpu_ns
            for part in books.parts
            if one.ordinal_start < part.part.ordinal <= one.ordinal_end
        )
        accounted = parts_ns + one.in_flight_end_ns - one.in_flight_start_ns
        found.append((one.owned_ns - spent, one.attributed_ns - accounted))
    return found
