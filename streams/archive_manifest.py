"""Entries of an archive's manifest, each with the hash of the one before it. Pure.

entry 1 <- entry 2 <- entry 3      one chain for each partition of each topic
   |          |          |
[0, 90)   [90, 200)  [200, 260)    dense: each range begins where the one before it ended
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.decode import first_problem
from schemas.errors import ContractError
from streams.sink_needs import Place

NOTHING = "0" * 64
"""What the first entry names as the one before it."""
_NAME_DIGITS = 16
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**63 - 1)]


class ManifestEntry(BaseModel):
    """One range of offsets `[start, end)` of a partition, and the file that holds its records.

    A `gap` has no file: the broker no longer had those records when they should have been
    archived. `records` may be fewer than offsets: compaction removes some.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["rentroll-archive-1"] = "rentroll-archive-1"
    topic: Annotated[str, Field(min_length=1, max_length=249)]
    partition: Annotated[int, Field(ge=0, le=65_535)]
    number: Annotated[int, Field(ge=1)]
    start: Count
    end: Count
    kind: Literal["records", "gap"]
    records: Count
    first_timestamp_ms: int
    last_timestamp_ms: int
    file: str
    file_bytes: Count
    file_sha256: str
    content_sha256: str
    previous: Sha256

    @property
    def place(self) -> Place:
        """Topic and partition."""
        return self.topic, self.partition

    @property
    def offsets(self) -> str:
        """How people read the range: `usage.v1/0 [90, 200)`."""
        return f"{self.topic}/{self.partition} [{self.start}, {self.end})"

    def to_bytes(self) -> bytes:
        """Canonical JSON: the same entry is always the same bytes."""
        text = json.dumps(self.model_dump(), sort_keys=True, separators=(",", ":"))
        return text.encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain ends: its last entry's number and hash, and the offset behind its range."""

    number: int = 0
    end: int = 0
    sha256: str = NOTHING


EMPTY = Head()


def read_entry(content: bytes) -> ManifestEntry:
    """An entry from its bytes.

    Raises:
        ContractError: If they are not what `to_bytes` writes, to the byte.
    """
    try:
        found: Any = json.loads(content)
        entry = ManifestEntry.model_validate(found)
    except ValidationError as error:
        raise ContractError(first_problem(error)) from error
    except (ValueError, RecursionError) as error:
        raise ContractError(f"no JSON: {error}") from error
    if entry.to_bytes() != content:
        raise ContractError("its bytes are not the canonical form of what they say")
    return entry


def entry_sha256(content: bytes) -> str:
    """The hash by which the next entry, and the billing store, know an entry."""
    return hashlib.sha256(content).hexdigest()


def head_behind(content: bytes) -> Head:
    """The head of a chain that ends in this entry.

    Raises:
        ContractError: If it cannot be read.
    """
    entry = read_entry(content)
    return Head(entry.number, entry.end, entry_sha256(content))


def broken_link(place: Place, before: Head, entry: ManifestEntry) -> str:
    """Why an entry does not continue a chain that ends in `before`; empty if it does."""
    number = before.number + 1
    if entry.place != place:
        return f"it is about {entry.topic}/{entry.partition}"
    if entry.number != number:
        return f"it says that it is entry {entry.number}: the manifest was reordered"
    if entry.previous != before.sha256:
        return (
            f"the entry before it has SHA-256 {before.sha256[:12]}…, it names"
            f" {entry.previous[:12]}…: one of the two was changed"
        )
    if entry.start != before.end:
        return f"its range begins at {entry.start}, the one before it ends at {before.end}"
    if entry.end <= entry.start:
        return f"its range [{entry.start}, {entry.end}) holds nothing"
    return ""


def manifest_folder(place: Place) -> str:
    """Where the entries of one partition lie."""
    return f"{place[0]}/{place[1]:05d}/manifest"


def entry_name(place: Place, number: int) -> str:
    """The object that holds an entry."""
    return f"{manifest_folder(place)}/{number:010d}.json"


def entry_number(name: str) -> int | None:
    """The number in the name of an entry's object; None if it is not called like one."""
    stem, _, kind = name.rsplit("/", 1)[-1].partition(".")
    return int(stem) if kind == "json" and stem.isdigit() else None


def file_name(place: Place, start: int, end: int, file_sha256: str) -> str:
    """The object that holds the records of a range.

    The hash is in the name, so that a name always holds the same bytes: who writes a range again,
    be it one who does not know that he lost the partition, changes nothing.
    """
    return f"{place[0]}/{place[1]:05d}/{start:020d}-{end:020d}-{file_sha256[:_NAME_DIGITS]}.parquet"
