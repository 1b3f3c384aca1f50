"""Archives made by hand, and what tests ask of any archive."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from sqlalchemy import Engine

from infra.objects.folder import FolderObjects
from infra.objects.protocol import Objects
from infra.store.archive_heads import archive_heads_of, archived_places
from streams.archive import Archive
from streams.archive_manifest import Head
from streams.archive_records import RawRecords, from_parquet, table_of_records
from streams.archive_verifying import Recorded, RecordedEntry
from streams.sink_needs import Place
from tests.support.events import Record

TAKEN_MS = 1_791_000_000_000
"""When the broker took the first record of an archive made by hand."""


def raw_records(values: Sequence[bytes | None], first: int = 0) -> RawRecords:
    """Records at dense offsets from `first` on."""
    count = len(values)
    return RawRecords(
        offsets=list(range(first, first + count)),
        timestamps_ms=[TAKEN_MS + first + number for number in range(count)],
        timestamp_types=[1] * count,
        keys=[b"key %d" % number if number % 3 else None for number in range(count)],
        values=list(values),
        headers=[
            (("trace", b"%d" % number), ("empty", None))[: number % 3] for number in range(count)
        ],
        size_bytes=sum(len(value or b"") for value in values),
    )


def append_records(archive: Archive, place: Place, records: RawRecords) -> Head:
    """Archive one range that ends behind the last record."""
    end = records.offsets[-1] + 1
    sealed = archive.seal(archive.head(place), end, table_of_records(*place, records))
    return archive.append(sealed)


def archive_of(root: Path, records: Iterable[Record], *, per_file: int = 4) -> Archive:
    """An archive of what `LedgerWriter` writes: partition 0, offsets from 0."""
    archive = Archive(FolderObjects(root))
    by_topic: dict[str, list[bytes | None]] = {}
    for record in records:
        by_topic.setdefault(record.topic, []).append(record.value)
    for topic, values in by_topic.items():
        for start in range(0, len(values), per_file):
            append_records(
                archive, (topic, 0), raw_records(values[start : start + per_file], start)
            )
    return archive


def archived_records(objects: Objects) -> dict[tuple[str, int, int], tuple[bytes | None, ...]]:
    """Key and value of every record that the archive names, by topic, partition and offset.

    A record that is there twice fails the test that asks.
    """
    archive = Archive(objects)
    found: dict[tuple[str, int, int], tuple[bytes | None, ...]] = {}
    for place in archive.places():
        expected = 0
        for entry in archive.entries(place):
            assert entry.start == expected, "ranges are not dense"
            expected = entry.end
            content = archive.file(entry.file)
            assert content is not None
            for row in from_parquet(content).to_pylist():
                where = (row["topic"], row["partition"], row["offset"])
                assert where not in found, f"{where} is archived twice"
                found[where] = (row["key"], row["value"])
    return found


def recorded_in(store: Engine) -> Recorded:
    """What the billing store knows of an archive."""
    return {
        place: {
            head.number: RecordedEntry(head.sha256, head.end_offset, head.recorded_at_ms)
            for head in archive_heads_of(store, *place)
        }
        for place in archived_places(store)
    }
