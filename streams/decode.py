"""Records of one partition become Arrow tables of the ledger, and refusals that say why. Pure.

What is accepted is exactly what `schemas.decode.decode_event` accepts: the fast way only ever
says "yes" or "unsure", and whatever it is unsure of is judged by the reference, alone.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from schemas.control import DeadLetter
from schemas.decode import decode_event, first_problem
from schemas.errors import MalformedEventError
from schemas.fields import NAME_PATTERN
from schemas.ids import CONTENT_HASH_BYTES, UUID_PATTERN, content_hash
from schemas.tables import DEAD_LETTER_ROWS, USAGE_EVENTS, Table
from schemas.topics import DEAD_LETTERS, TOPIC_OF_TYPE, USAGE
from schemas.units import SEQUENCE_MAX
from streams import fast_usage
from streams.columns import arrow_schema, gather, table_of_rows
from streams.rows import Row, dead_letter_row, row_of
from streams.vectors import Unsure

DETAIL_CHARACTERS = 2_000
JUDGED_ALONE = 16
"""A group of events that the columns are unsure of is halved down to this, then judged singly."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that is no valid event of its topic; `reason` is a stable code."""

    offset: int
    value: bytes
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a run of records became; every record is in one table once, or refused."""

    tables: dict[Table, pa.Table]
    refused: list[Refused]

    @property
    def rows(self) -> int:
        """Rows over all tables."""
        return sum(len(table) for table in self.tables.values())


@dataclass(frozen=True, slots=True)
class ReadableIds:
    """What could be read of a refused record; empty or 0 where it could not."""

    source: str = ""
    sequence: int = 0
    event_id: str = ""
    tenant: str = ""


def decode(
    topic: str, partition: int, offsets: Sequence[int], values: Sequence[bytes | None]
) -> Decoded:
    """Decode, validate and arrange the records of one partition.

    Args:
        topic: One of `schemas.topics.TOPICS`.
        partition: Its number.
        offsets: Where each record lies.
        values: The records' values, as long as `offsets`.
    """
    run = _Run(topic, partition, offsets, values)
    places: Iterable[int] = range(len(values))
    if topic == USAGE.name:
        places = run.take_the_fast_way()
    for place in places:
        run.judge(place)
    return run.decoded()


def by_table(runs: Iterable[Decoded]) -> dict[Table, list[pa.Table]]:
    """The rows of several runs, in their order, under the table that they go to."""
    found: dict[Table, list[pa.Table]] = defaultdict(list)
    for decoded in runs:
        for table, rows in decoded.tables.items():
            found[table].append(rows)
    return dict(found)


def readable_ids(value: bytes) -> ReadableIds:
    """Who sent a refused record, as far as it says so in a valid form."""
    try:
        event = json.loads(value)
    except (ValueError, RecursionError):
        return ReadableIds()
    if not isinstance(event, dict):
        return ReadableIds()
    sequence: Any = event.get("sequence")
    fits = type(sequence) is int and 0 < sequence <= SEQUENCE_MAX
    return ReadableIds(
        source=_matching(UUID_PATTERN, event.get("source"), 36),
        sequence=sequence if fits else 0,
        event_id=_matching(UUID_PATTERN, event.get("id"), 36),
        tenant=_matching(NAME_PATTERN, event.get("subject"), 128),
    )


class _Run:
    """One call of `decode`: its records by their place in the run, its rows and refusals."""

    def __init__(
        self,
        topic: str,
        partition: int,
        offsets: Sequence[int],
        values: Sequence[bytes | None],
    ) -> None:
        self._topic = topic
        self._partition = partition
        self._offsets = offsets
        self._values = values
        self._rows: dict[Table, list[Row]] = defaultdict(list)
        self._tables: list[pa.Table] = []
        self._refused: list[Refused] = []

    def decoded(self) -> Decoded:
        tables = {table: table_of_rows(table, rows) for table, rows in self._rows.items()}
        if self._tables:
            slow = [tables[USAGE_EVENTS]] if USAGE_EVENTS in tables else []
            tables[USAGE_EVENTS] = gather(self._tables + slow)
        return Decoded(tables, sorted(self._refused, key=lambda refused: refused.offset))

    def judge(self, place: int) -> None:
        """Let the reference decide about one record."""
        value = self._values[place]
        if value is None:
            self._refuse(place, "record.empty", "value: null")
        elif self._topic == DEAD_LETTERS.name:
            self._judge_dead_letter(place, value)
        else:
            self._judge_event(place, value)

    def _judge_event(self, place: int, value: bytes) -> None:
        try:
            event = decode_event(value)
        except MalformedEventError as error:
            self._refuse(place, _reason(str(error)), str(error))
            return
        belongs = TOPIC_OF_TYPE[event.type].name
        if belongs != self._topic:
            self._refuse(place, "event.wrong_topic", f"type: {event.type} belongs to {belongs}")
            return
        table, row = row_of(event)
        row["content_hash"] = content_hash(value)
        row["topic"] = self._topic
        row["kafka_partition"] = self._partition
        row["kafka_offset"] = self._offsets[place]
        self._rows[table].append(row)

    def _judge_dead_letter(self, place: int, value: bytes) -> None:
        try:
            row = dead_letter_row(DeadLetter.model_validate_json(value))
        except ValidationError as error:
            self._refuse(place, "event.invalid", first_problem(error))
        except ValueError as error:
            self._refuse(place, "event.invalid", f"value_base64: {error}")
        else:
            self._rows[DEAD_LETTER_ROWS].append(row)

    def _refuse(self, place: int, reason: str, detail: str) -> None:
        plain = detail.encode("ascii", "backslashreplace").decode("ascii")[:DETAIL_CHARACTERS]
        value = self._values[place] or b""
        self._refused.append(Refused(self._offsets[place], value, reason, plain))

    def take_the_fast_way(self) -> list[int]:
        """Gather what the fast way is sure of; returns what it leaves to the reference."""
        left = [place for place, value in enumerate(self._values) if value is None]
        present = _without(range(len(self._values)), left)
        self._halve_until_sure(self._take_canonical(present), left)
        return left

    def _take_canonical(self, places: Sequence[int]) -> Sequence[int]:
        """Take what our own emitters wrote; returns the places of the rest."""
        if not places:
            return places
        try:
            columns, others = fast_usage.columns_of_canonical([self._values[n] for n in places])  # type: ignore[misc]
        except Unsure:
            return places
        rest = [places[n] for n in others]
        self._take(_without(places, rest), columns)
        return rest

    def _halve_until_sure(self, places: Sequence[int], left: list[int]) -> None:
        if not places:
            return
        try:
            columns = fast_usage.columns([self._values[place] for place in places])  # type: ignore[misc]
        except Unsure:
            if len(places) <= JUDGED_ALONE:
                left.extend(places)
                return
            middle = len(places) // 2
            self._halve_until_sure(places[:middle], left)
            self._halve_until_sure(places[middle:], left)
        else:
            self._take(places, columns)

    def _take(self, places: Sequence[int], columns: dict[str, pa.Array]) -> None:
        """Keep columns of `usage_events` that the fast way is sure of."""
        count = len(places)
        values, offsets, sha256 = self._values, self._offsets, hashlib.sha256
        # `content_hash` of each, cut to its first half in one step for all.
        whole = b"".join([sha256(values[place]).digest() for place in places])  # type: ignore[arg-type]
        halves = pa.Array.from_buffers(
            pa.binary(CONTENT_HASH_BYTES), 2 * count, [None, pa.py_buffer(whole)]
        )
        columns["content_hash"] = halves.take(pa.array(range(0, 2 * count, 2), pa.int32()))
        columns["topic"] = pa.DictionaryArray.from_arrays(
            pa.repeat(pa.scalar(0, pa.int32()), count), [self._topic]
        )
        columns["kafka_partition"] = pa.repeat(pa.scalar(self._partition, pa.uint16()), count)
        columns["kafka_offset"] = pa.array([offsets[place] for place in places], pa.uint64())
        schema = arrow_schema(USAGE_EVENTS)
        self._tables.append(pa.table([columns[name] for name in schema.names], schema=schema))


def _without(places: Sequence[int], some: Sequence[int]) -> Sequence[int]:
    if not some:
        return places
    gone = set(some)
    return [place for place in places if place not in gone]


def _reason(detail: str) -> str:
    """The stable code of a refusal by the reference, from the field it names first."""
    field = detail.split(":", 1)[0]
    return {"value": "record.malformed", "type": "event.unknown_type"}.get(field, "event.invalid")


def _matching(pattern: str, value: Any, longest: int) -> str:
    fits = isinstance(value, str) and len(value) <= longest and re.fullmatch(pattern, value)
    return value if fits else ""
