"""Verifies an archive: every link of every chain, every file, every record's place.

Of each partition the first fault is named; what lies behind it is not looked at.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from schemas.errors import ContractError
from schemas.ids import format_ms
from streams.archive import Archive
from streams.archive_manifest import (
    EMPTY,
    Head,
    ManifestEntry,
    broken_link,
    entry_name,
    entry_sha256,
    read_entry,
)
from streams.archive_records import content_sha256, from_parquet
from streams.sink_needs import Place


@dataclass(frozen=True, slots=True)
class RecordedEntry:
    """What the billing store knows of one entry."""

    sha256: str
    end: int
    recorded_at_ms: int


Recorded = Mapping[Place, Mapping[int, RecordedEntry]]
"""By partition and number; every entry that an archiver noted."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The first thing that is wrong in one partition: the object, and why."""

    place: Place
    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


@dataclass(slots=True)
class Verification:
    """What was looked at, and what is wrong; sound if `faults` is empty.

    `late` counts offsets before the first record ever archived, `leftovers` files that no entry
    names: of ranges that were cut off while they were written. Neither is a fault.
    """

    entries: int = 0
    records: int = 0
    file_bytes: int = 0
    late: int = 0
    leftovers: int = 0
    heads: dict[Place, Head] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


Progress = Callable[[int, int], None]
"""Hears how many of how many entries were looked at."""


def verify(
    archive: Archive, recorded: Recorded | None, progress: Progress = lambda *_: None
) -> Verification:
    """Verify everything; memory holds one file at a time.

    Args:
        archive: The archive.
        recorded: What the billing store knows; without it (`None`) a chain that was cut at its
            end, with its files, looks whole.
        progress: Told after each entry.
    """
    found = Verification()
    numbers = {place: archive.numbers(place) for place in archive.places()}
    known = recorded or {}
    total = sum(map(len, numbers.values()))
    for place in sorted(numbers.keys() | known.keys()):
        partition = _Partition(archive, place, known.get(place, {}), found)
        fault = partition.check(numbers.get(place, set()), lambda: progress(found.entries, total))
        if fault is not None:
            found.faults.append(fault)
    return found


class _Partition:
    """One chain while it is verified."""

    def __init__(
        self,
        archive: Archive,
        place: Place,
        recorded: Mapping[int, RecordedEntry],
        found: Verification,
    ) -> None:
        self._archive = archive
        self._place = place
        self._recorded = recorded
        self._found = found

    def check(self, numbers: set[int], told: Callable[[], None]) -> Fault | None:
        files = self._archive.files(self._place)
        named: set[str] = set()
        head = EMPTY
        for number in range(1, max([0, *numbers, *self._recorded]) + 1):
            where = entry_name(self._place, number)
            content = self._archive.entry(self._place, number)
            if content is None:
                return Fault(self._place, where, self._missing(number, numbers))
            wrong, entry = self._entry(number, content, head)
            if entry is None:
                return Fault(self._place, where, wrong)
            fault = self._file(entry, files)
            if fault is not None:
                return fault
            named.add(entry.file)
            head = Head(entry.number, entry.end, entry_sha256(content))
            self._found.entries += 1
            self._found.records += entry.records
            told()
        self._found.heads[self._place] = head
        self._found.leftovers += len(files.keys() - named)
        return None

    def _missing(self, number: int, numbers: set[int]) -> str:
        later = sorted(one for one in numbers if one > number)
        known = self._recorded.get(number)
        said = f"the entry is gone; entry {later[0]} is there" if later else "the entry is gone"
        if known is None:
            return said
        when = format_ms(known.recorded_at_ms)
        return f"{said}; the billing store has it on record since {when}, up to offset {known.end}"

    def _entry(self, number: int, content: bytes, before: Head) -> tuple[str, ManifestEntry | None]:
        """The entry, or what is wrong with it."""
        known = self._recorded.get(number)
        digest = entry_sha256(content)
        try:
            entry = read_entry(content)
        except ContractError as error:
            return f"it cannot be read: {error}", None
        if entry.place == self._place and entry.number != number:
            return broken_link(self._place, before, entry), None
        if known is not None and known.sha256 != digest:
            return (
                f"the entry was changed: SHA-256 {digest[:12]}…, the billing store has"
                f" {known.sha256[:12]}… on record since {format_ms(known.recorded_at_ms)}"
            ), None
        wrong = broken_link(self._place, before, entry)
        return wrong, None if wrong else entry

    def _file(self, entry: ManifestEntry, files: Mapping[str, int]) -> Fault | None:
        if entry.kind == "gap":
            if entry.number > 1:
                return self._fault(
                    entry, "the log had lost these records before they were archived"
                )
            self._found.late += entry.end - entry.start
            return None
        content = self._archive.file(entry.file) if entry.file in files else None
        if content is None:
            return self._fault(entry, "the file is gone")
        self._found.file_bytes += len(content)
        wrong = _wrong_bytes(entry, content) or _wrong_records(entry, content)
        return self._fault(entry, wrong) if wrong else None

    def _fault(self, entry: ManifestEntry, why: str) -> Fault:
        where = entry.file or entry_name(self._place, entry.number)
        return Fault(self._place, f"{where} (entry {entry.number}, {entry.offsets})", why)


def _wrong_bytes(entry: ManifestEntry, content: bytes) -> str:
    """How a file differs from the one that was archived; empty if it does not."""
    if len(content) != entry.file_bytes:
        return f"the file has {len(content)} bytes, its entry says {entry.file_bytes}"
    digest = hashlib.sha256(content).hexdigest()
    if digest == entry.file_sha256:
        return ""
    return (
        f"the file's bytes were changed: SHA-256 {digest[:12]}…, its entry says"
        f" {entry.file_sha256[:12]}…"
    )


def _wrong_records(entry: ManifestEntry, content: bytes) -> str:
    """How a file's records differ from what its entry says; empty if they do not."""
    try:
        table = from_parquet(content)
    except ContractError as error:
        return str(error)
    digest = content_sha256(table)
    if digest != entry.content_sha256:
        return f"its records are others: SHA-256 {digest[:12]}…, not {entry.content_sha256[:12]}…"
    if len(table) != entry.records:
        return f"it holds {len(table)} records, its entry says {entry.records}"
    return _wrong_places(entry, table)


def _wrong_places(entry: ManifestEntry, table: pa.Table) -> str:
    topics = set(table.column("topic").cast(pa.string()).unique().to_pylist())
    partitions = set(table.column("partition").unique().to_pylist())
    if topics != {entry.topic} or partitions != {entry.partition}:
        return f"its records are of {sorted(topics)}, partitions {sorted(partitions)}"
    offsets: Sequence[int] = table.column("offset").to_pylist()
    before = entry.start - 1
    for offset in offsets:
        if not before < offset < entry.end:
            return f"offset {offset} stands behind {before} in a range that ends at {entry.end}"
        before = offset
    return ""
