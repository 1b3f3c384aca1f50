"""The archive: files of raw records, and one chain of manifest entries per partition."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from infra.objects.protocol import Objects
from schemas.errors import IngestError
from streams.archive_manifest import (
    EMPTY,
    Head,
    ManifestEntry,
    entry_name,
    entry_number,
    entry_sha256,
    file_name,
    head_behind,
    manifest_folder,
    read_entry,
)
from streams.archive_records import content_sha256, to_parquet
from streams.sink_needs import Place


class OvertakenError(Exception):
    """Somebody else appended to the chain first; whoever catches it reads the head again."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A range whose file is written, and the entry that would make it count."""

    entry: ManifestEntry
    before: Head


class Archive:
    """Files and manifests below one root. Every method raises `ServerError` where storage does."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def places(self) -> list[Place]:
        """Every partition that has a manifest, sorted."""
        found = set()
        for one in self._objects.listed(""):
            parts = one.name.split("/")
            if len(parts) == 4 and parts[2] == "manifest" and parts[1].isdigit():  # noqa: PLR2004
                found.add((parts[0], int(parts[1])))
        return sorted(found)

    def head(self, place: Place) -> Head:
        """Where the chain of a partition ends.

        Raises:
            ContractError: If its last entry cannot be read.
        """
        last = max(self.numbers(place), default=0)
        content = self._objects.get(entry_name(place, last)) if last else None
        return EMPTY if content is None else head_behind(content)

    def numbers(self, place: Place) -> set[int]:
        """The numbers of all entries of a partition."""
        listed = self._objects.listed(manifest_folder(place))
        return {number for one in listed if (number := entry_number(one.name)) is not None}

    def files(self, place: Place) -> dict[str, int]:
        """Every file of records of a partition with its size, named by an entry or not."""
        prefix = f"{place[0]}/{place[1]:05d}"
        return {
            one.name: one.size_bytes
            for one in self._objects.listed(prefix)
            if one.name.endswith(".parquet")
        }

    def entry(self, place: Place, number: int) -> bytes | None:
        """The bytes of one entry; None if it is not there."""
        return self._objects.get(entry_name(place, number))

    def entries(self, place: Place) -> Iterator[ManifestEntry]:
        """Every entry in order, as it is: `streams.archive_verifying` says whether that is right.

        Raises:
            ContractError: If one cannot be read.
        """
        for number in sorted(self.numbers(place)):
            content = self.entry(place, number)
            if content is not None:
                yield read_entry(content)

    def file(self, name: str) -> bytes | None:
        """The bytes of a file; None if it is not there."""
        return self._objects.get(name)

    def seal(self, before: Head, end: int, table: pa.Table) -> Sealed:
        """Write the file of a range that continues `before`; it counts only after `append`.

        Args:
            before: The head of the chain.
            end: The offset behind the range.
            table: Its records, of `archive_records.SCHEMA`; at least one.
        """
        place: Place = (table.column("topic")[0].as_py(), table.column("partition")[0].as_py())
        content = to_parquet(table)
        digest = hashlib.sha256(content).hexdigest()
        name = file_name(place, before.end, end, digest)
        self._objects.put(name, content)
        times = table.column("timestamp_ms").to_pylist()
        entry = ManifestEntry(
            topic=place[0],
            partition=place[1],
            number=before.number + 1,
            start=before.end,
            end=end,
            kind="records",
            records=len(table),
            first_timestamp_ms=min(times),
            last_timestamp_ms=max(times),
            file=name,
            file_bytes=len(content),
            file_sha256=digest,
            content_sha256=content_sha256(table),
            previous=before.sha256,
        )
        return Sealed(entry, before)

    def append(self, sealed: Sealed) -> Head:
        """Make a range count: its entry becomes the chain's end, in one step or not at all.

        Raises:
            OvertakenError: If another entry has that number by now.
        """
        content = sealed.entry.to_bytes()
        name = entry_name(sealed.entry.place, sealed.entry.number)
        if not self._objects.put_new(name, content) and self._objects.get(name) != content:
            raise OvertakenError(f"{name} is somebody else's")
        return Head(sealed.entry.number, sealed.entry.end, entry_sha256(content))


def gap(place: Place, before: Head, end: int) -> Sealed:
    """A range that the broker has no more.

    Raises:
        IngestError: If it holds nothing.
    """
    if end <= before.end:
        raise IngestError(f"{place[0]}/{place[1]}: no gap from {before.end} to {end}")
    entry = ManifestEntry(
        topic=place[0],
        partition=place[1],
        number=before.number + 1,
        start=before.end,
        end=end,
        kind="gap",
        records=0,
        first_timestamp_ms=0,
        last_timestamp_ms=0,
        file="",
        file_bytes=0,
        file_sha256="",
        content_sha256="",
        previous=before.sha256,
    )
    return Sealed(entry, before)
