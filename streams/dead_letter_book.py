"""Dead letters as people work on them: which are open, what was decided, which came back."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from sqlalchemy import Engine

from infra.clickhouse.client import Client, external
from infra.store.decisions import (
    Decider,
    Decision,
    NewDecision,
    append_decisions,
    decisions_after,
)
from schemas.errors import ContractError
from schemas.ids import is_uuid7, uuid7_unix_ms
from schemas.topics import TOPICS
from streams.completeness_decisions import (
    DISCARD_DEAD_LETTER,
    HASH_DIGITS,
    REDRIVE_DEAD_LETTER,
)
from streams.completeness_sql import EVENT_TABLES

State = Literal["open", "redriven", "discarded"]
STATES: tuple[State, ...] = ("open", "redriven", "discarded")
OPEN: tuple[State, ...] = ("open",)
_STATE_OF_KIND: dict[str, State] = {
    REDRIVE_DEAD_LETTER: "redriven",
    DISCARD_DEAD_LETTER: "discarded",
}
_COLUMNS = (
    "toString(topic), kafka_partition, kafka_offset, toString(reason), detail, content_sha256,"
    " source, sequence, event_id, toString(tenant)"
)
_DECIDED = "decided_topic String, decided_partition UInt16, decided_offset UInt64"
_PLACE = "(toString(topic), kafka_partition, kafka_offset)"
_AMONG = "(SELECT decided_topic, decided_partition, decided_offset FROM decided)"


@dataclass(frozen=True, slots=True)
class Letter:
    """One refused record: where it lay, why it was refused, whose it was, what was decided."""

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    content_sha256: str
    source: str
    sequence: int
    event_id: str
    tenant: str
    decision: Decision | None = None

    @property
    def place(self) -> str:
        """`topic/partition/offset`: what people call it by."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    @property
    def state(self) -> State:
        """Open until somebody decides; the latest decision counts."""
        return _STATE_OF_KIND[self.decision.kind] if self.decision else "open"

    def unix_ms(self) -> int | None:
        """When the event in it happened, if that can be read."""
        return uuid7_unix_ms(self.event_id) if is_uuid7(self.event_id) else None

    def subject(self, **more: object) -> str:
        """Canonical JSON of a decision about it."""
        about = {
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "content_sha256": self.content_sha256,
            "event_id": self.event_id,
        }
        return json.dumps(about | more, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which dead letters are asked for; what is not named does not matter."""

    states: Collection[State] = STATES
    places: Collection[str] = ()
    topic: str | None = None
    refused_as: str | None = None
    source: str | None = None
    limit: int = 1_000


@dataclass(frozen=True, slots=True)
class LettersFound:
    """Letters by place, and how many there are beyond the limit."""

    letters: Sequence[Letter]
    more: int = 0


@dataclass(slots=True)
class _Where:
    terms: list[str] = field(default_factory=lambda: ["1"])
    values: dict[str, object] = field(default_factory=dict)

    def add(self, column: str, value: object | None) -> None:
        if value is not None:
            self.terms.append(f"{column} = {{{column}:String}}")
            self.values[column] = value


def letters(client: Client, store: Engine, wanted: Wanted) -> LettersFound:
    """Dead letters with what was decided about them, by place.

    Raises:
        ContractError: If a place or a decision cannot be read.
    """
    decided = _decided(store)
    where, tables = _Where(), {"decided": (_DECIDED, [parse_place(one) for one in decided])}
    where.add("topic", wanted.topic)
    where.add("reason", wanted.refused_as)
    where.add("source", wanted.source)
    if wanted.places:
        tables["asked"] = (_DECIDED, [parse_place(one) for one in wanted.places])
        where.terms.append(f"{_PLACE} IN {_AMONG.replace('decided)', 'asked)')}")
    if "open" not in wanted.states:
        where.terms.append(f"{_PLACE} IN {_AMONG}")
    if set(wanted.states) == {"open"}:
        where.terms.append(f"{_PLACE} NOT IN {_AMONG}")
    rows = client.query(
        f"SELECT {_COLUMNS}, count() OVER () FROM dead_letters FINAL"  # noqa: S608 - our own names
        f" WHERE {' AND '.join(where.terms)} ORDER BY topic, kafka_partition, kafka_offset"
        f" LIMIT {wanted.limit}",
        parameters=where.values,
        external_data=external(**tables),
    ).result_rows
    found = [Letter(*row[:-1]) for row in rows]
    found = [replace(one, decision=decided.get(one.place)) for one in found]
    more = max(rows[0][-1] - wanted.limit, 0) if rows else 0
    return LettersFound([one for one in found if one.state in wanted.states], more)


def letter_at(client: Client, store: Engine, place: str) -> Letter:
    """The dead letter of the record that lay at `topic/partition/offset`.

    Raises:
        ContractError: If there is none.
    """
    found = letters(client, store, Wanted(places=(place,))).letters
    if not found:
        raise ContractError(f"there is no dead letter {place}; see `rentroll dlq list`")
    return found[0]


def value_of(client: Client, letter: Letter) -> bytes:
    """The refused bytes, as far as they were kept: of very long ones the beginning."""
    ((text,),) = client.query(
        "SELECT hex(value) FROM dead_letters FINAL WHERE topic = {topic:String}"
        " AND kafka_partition = {partition:UInt16} AND kafka_offset = {offset:UInt64}",
        parameters={
            "topic": letter.topic,
            "partition": letter.partition,
            "offset": letter.offset,
        },
    ).result_rows
    return bytes.fromhex(text)


def is_whole(letter: Letter, value: bytes) -> bool:
    """Whether these are all the bytes that were refused; of very long ones only some are kept."""
    return hashlib.sha256(value).hexdigest() == letter.content_sha256


def open_by_reason(client: Client, store: Engine) -> dict[str, int]:
    """How many dead letters nobody has decided about, by the reason of their refusal."""
    rows = client.query(
        "SELECT toString(reason), count() FROM dead_letters FINAL"  # noqa: S608 - our own names
        f" WHERE {_PLACE} NOT IN {_AMONG} GROUP BY reason ORDER BY reason",
        external_data=external(decided=(_DECIDED, [parse_place(one) for one in _decided(store)])),
    ).result_rows
    return {reason: int(count) for reason, count in rows}


def in_ledger(client: Client, some: Collection[Letter]) -> set[str]:
    """Which of the letters' contents are in the ledger by now, as `content_sha256`.

    Only those are looked for whose time can be read: all others would be a scan of everything.
    """
    by_hash = {one.content_sha256[:HASH_DIGITS]: one.content_sha256 for one in some}
    times = [ms for ms in (one.unix_ms() for one in some) if ms is not None]
    if not times:
        return set()
    span = (
        f"event_time >= fromUnixTimestamp64Milli({min(times)}, 'UTC')"
        f" AND event_time <= fromUnixTimestamp64Milli({max(times)}, 'UTC')"
    )
    rows = client.query(
        " UNION DISTINCT ".join(
            f"SELECT lower(hex(content_hash)) AS content FROM {table} WHERE {span}"  # noqa: S608
            " AND content IN (SELECT wanted FROM contents)"
            for table in EVENT_TABLES
        ),
        external_data=external(contents=("wanted String", [(one,) for one in by_hash])),
    ).result_rows
    return {by_hash[row[0]] for row in rows}


def same_content(client: Client, letter: Letter) -> list[str]:
    """Places of other dead letters with the same bytes: copies, or a redrive that came back."""
    rows = client.query(
        "SELECT toString(topic), kafka_partition, kafka_offset FROM dead_letters FINAL"
        " WHERE content_sha256 = {sha256:String}"
        " ORDER BY topic, kafka_partition, kafka_offset LIMIT 100",
        parameters={"sha256": letter.content_sha256},
    ).result_rows
    places = [f"{topic}/{partition}/{offset}" for topic, partition, offset in rows]
    return [one for one in places if one != letter.place]


def discard(store: Engine, some: Sequence[Letter], decider: Decider) -> list[Decision]:
    """Decide that nobody bills these, also if a copy comes into the ledger later.

    A letter that is discarded already keeps its first decision.
    """
    new = [decider.on(DISCARD_DEAD_LETTER, one.subject()) for one in some]
    return append_decisions(store, new, once=place_decided)


def parse_place(place: str) -> tuple[str, int, int]:
    """Topic, partition and offset of a place as people write it.

    Raises:
        ContractError: If it is none.
    """
    topic, _, rest = place.partition("/")
    partition, _, offset = rest.partition("/")
    known = topic in {one.name for one in TOPICS}
    if not (known and partition.isdecimal() and offset.isdecimal()):
        raise ContractError(f"a dead letter is called usage.v1/2/123, not {place!r}")
    return topic, int(partition), int(offset)


def place_decided(decision: Decision | NewDecision) -> str:
    """The place of the dead letter that a decision is about.

    Raises:
        ContractError: If its subject has another form.
    """
    try:
        subject: Mapping[str, object] = json.loads(decision.subject)
        place = "/".join(str(subject[name]) for name in ("topic", "partition", "offset"))
    except (ValueError, KeyError, TypeError) as error:
        raise ContractError(f"a decision names no place: {decision.subject[:200]!r}") from error
    parse_place(place)
    return place


def _decided(store: Engine) -> dict[str, Decision]:
    return {
        place_decided(one): one for one in decisions_after(store, 0) if one.kind in _STATE_OF_KIND
    }


def of_event(client: Client, store: Engine, event_id: str) -> list[Letter]:
    """Dead letters that say they are this event, at most a hundred."""
    rows = client.query(
        "SELECT toString(topic), kafka_partition, kafka_offset FROM dead_letters FINAL"
        " WHERE event_id = {event_id:String} LIMIT 100",
        parameters={"event_id": event_id},
    ).result_rows
    places = [f"{topic}/{partition}/{offset}" for topic, partition, offset in rows]
    return list(letters(client, store, Wanted(places=places)).letters) if places else []
