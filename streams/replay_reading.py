"""Where a replay reads from: the archive, or Kafka; per partition in the order of offsets.

Old records may be left out: those that the broker took before some time. Who leaves them out and
finds a difference reads them too before he believes it.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from schemas.errors import IngestError
from streams.archive import Archive
from streams.archive_log import log_bounds, offsets_at, read_range
from streams.archive_manifest import EMPTY, Head, ManifestEntry, broken_link, entry_sha256
from streams.archive_records import batches_of
from streams.record_batch import RecordBatch
from streams.sink_needs import Place

Until = Mapping[Place, int]
"""By partition the first offset that is not read."""


class ReplaySource(Protocol):
    """Records by offset vector."""

    def demand(self, until: Until) -> None:
        """Raise `IngestError` if it does not reach so far."""

    def batches(self, until: Until, since_ms: int | None, *, older: bool) -> Iterator[RecordBatch]:
        """Records below the vector.

        Args:
            until: By partition the first offset that is not read.
            since_ms: When the broker took a record; `None` makes nothing old.
            older: Only what is older than `since_ms`, or only the rest.

        Raises:
            IngestError: If something cannot be read.
        """
        ...


class ArchiveSource:
    """The archive; every file is held to its hash before it is read."""

    def __init__(self, archive: Archive, rows: int) -> None:
        self._archive = archive
        self._rows = rows

    def ends(self) -> dict[Place, int]:
        """By partition, the offset behind what is archived."""
        return {place: self._archive.head(place).end for place in self._archive.places()}

    def demand(self, until: Until) -> None:
        ends = self.ends()
        for (topic, partition), end in sorted(until.items()):
            archived = ends.get((topic, partition), 0)
            if archived < end:
                raise IngestError(
                    f"the archive of {topic}/{partition} ends at offset {archived}, needed is"
                    f" {end}: `rentroll archive run --until-idle 1` goes on, or replay from kafka"
                )

    def batches(self, until: Until, since_ms: int | None, *, older: bool) -> Iterator[RecordBatch]:
        for place in sorted(until):
            yield from self._of(place, until[place], since_ms, older=older)

    def _of(
        self, place: Place, end: int, since_ms: int | None, *, older: bool
    ) -> Iterator[RecordBatch]:
        head = EMPTY
        for entry in self._archive.entries(place):
            wrong = broken_link(place, head, entry)
            if wrong:
                raise IngestError(
                    f"entry {head.number + 1} of the archive of {place[0]}/{place[1]}: {wrong};"
                    " `rentroll archive verify` looks at all of it"
                )
            head = Head(entry.number, entry.end, entry_sha256(entry.to_bytes()))
            if entry.start >= end:
                return
            is_old = since_ms is not None and entry.last_timestamp_ms < since_ms
            if entry.kind == "records" and is_old == older:
                yield from self._records(entry, end)

    def _records(self, entry: ManifestEntry, end: int) -> Iterator[RecordBatch]:
        content = self._archive.file(entry.file)
        if content is None:
            raise IngestError(f"{entry.file} is gone from the archive")
        if hashlib.sha256(content).hexdigest() != entry.file_sha256:
            raise IngestError(f"{entry.file}: its bytes are not those that were archived")
        for offsets, values in batches_of(content, self._rows):
            batch = _below(entry.place, offsets, values, end)
            if batch is not None:
                yield batch


class KafkaSource:
    """The log itself, as far as its retention lets it reach back."""

    def __init__(self, bootstrap: str, rows: int, fetch_bytes: int) -> None:
        self._bootstrap = bootstrap
        self._rows = rows
        self._fetch_bytes = fetch_bytes

    def bounds(self, topics: Collection[str]) -> dict[Place, tuple[int, int]]:
        """First offset, and the one behind the last, of each partition."""
        return asyncio.run(log_bounds(self._bootstrap, topics))

    def demand(self, until: Until) -> None:
        bounds = self.bounds({topic for topic, _ in until})
        for (topic, partition), end in sorted(until.items()):
            start, log_end = bounds.get((topic, partition), (0, 0))
            if log_end < end or start >= end > 0:
                raise IngestError(
                    f"Kafka has {topic}/{partition} from offset {start} to {log_end}, needed is"
                    f" what lies before {end}: replay from the archive"
                )

    def batches(self, until: Until, since_ms: int | None, *, older: bool) -> Iterator[RecordBatch]:
        places = sorted(until)
        bounds = self.bounds({topic for topic, _ in until})
        borders = {place: bounds[place][0] for place in places}
        if since_ms is not None:
            found = asyncio.run(offsets_at(self._bootstrap, places, since_ms))
            borders = {place: found.get(place, until[place]) for place in places}
        ranges = {
            place: (bounds[place][0], min(borders[place], until[place]))
            if older
            else (max(borders[place], bounds[place][0]), until[place])
            for place in places
        }
        return self.ranges(ranges)

    def ranges(self, ranges: dict[Place, tuple[int, int]]) -> Iterator[RecordBatch]:
        """Every record of each partition's `[start, end)`."""
        reading = read_range(self._bootstrap, ranges, self._fetch_bytes)
        return regrouped(_blocking(reading), self._rows)


def regrouped(batches: Iterator[RecordBatch], rows: int) -> Iterator[RecordBatch]:
    """Fewer and larger batches; per partition in the same order, `rows` or a little more each."""
    waiting: dict[Place, RecordBatch] = {}
    for batch in batches:
        place = (batch.topic, batch.partition)
        joined = _joined(waiting.pop(place, None), batch)
        if len(joined.offsets) >= rows:
            yield joined
        else:
            waiting[place] = joined
    yield from waiting.values()


def _joined(before: RecordBatch | None, batch: RecordBatch) -> RecordBatch:
    if before is None:
        return batch
    before.offsets.extend(batch.offsets)
    before.values.extend(batch.values)
    return replace(before, end=batch.end, log_end=batch.log_end)


def _blocking(batches: AsyncIterator[RecordBatch]) -> Iterator[RecordBatch]:
    """The same one by one, for whoever has no event loop."""
    with asyncio.Runner() as runner:
        while True:
            batch = runner.run(_next(batches))
            if batch is None:
                return
            yield batch


async def _next(batches: AsyncIterator[RecordBatch]) -> RecordBatch | None:
    return await anext(batches, None)


def _below(
    place: Place, offsets: list[int], values: list[bytes | None], end: int
) -> RecordBatch | None:
    if offsets[-1] >= end:
        count = sum(one < end for one in offsets)
        offsets, values = offsets[:count], values[:count]
    if not offsets:
        return None
    return RecordBatch(*place, offsets[0], offsets[-1] + 1, end, offsets, values)
