"""The outbox of one source: spool frames become final, numbered, signed events, exactly once.

One SQLite transaction per batch holds both how far the spool was read and the events made of it,
so a kill at any instant neither loses nor doubles one. The transaction commits before anything is
published, and an event is deleted only when Kafka has acknowledged it: what may happen twice is a
publication of the same bytes under the same id and sequence.

Invariants: `sequence` is dense from 1; event 1 is `source.opened` and the last `source.closed`;
the ranges that intervals and the closing sign follow each other without a gap.
"""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from inference.outbox_file import OUTBOX_FILE, open_outbox_file, transaction
from inference.settings import InferenceSettings
from inference.spool import Damage, Position, read_spool, segment_numbers, segment_path
from inference.wire import (
    THE_SOURCE,
    ClosedWire,
    Composer,
    LostWire,
    OpenedWire,
    Record,
    format_time,
    to_json,
)
from infra.signing import SourceKey
from schemas.control import CloseReason
from schemas.errors import SpoolError
from schemas.fleet import RangePurpose, SignedRange
from schemas.ids import CONTENT_HASH_BYTES, content_hash, derived_entropy, range_sha256, uuid7
from schemas.ids import uuid7_unix_ms as unix_ms_of
from schemas.topics import TOPIC_OF_TYPE
from schemas.units import SEQUENCE_MAX

_SIGNED: dict[str, RangePurpose] = {"engine.interval": "interval", "source.closed": "closed"}
_TOPICS = {
    name.removeprefix("io.rentroll.").removesuffix(".v1"): topic.name
    for name, topic in TOPIC_OF_TYPE.items()
}


class OutboxRow(NamedTuple):
    """One event, ready for Kafka."""

    sequence: int
    topic: str
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class SourceIdentity:
    """Who speaks: one incarnation of one host's outbox, and its signing key."""

    source: str
    host: str
    software: str
    key: SourceKey


@dataclass(slots=True)
class _State:
    """The `source` row; a batch changes a copy, which counts once it is committed."""

    next_sequence: int
    position: Position
    range_first: int
    range_hashes: list[bytes]
    latest_id: str
    added_bytes: int
    closed: bool


class Outbox:
    """The writing end of an outbox; one process at a time.

    Raises:
        SpoolError: If the file belongs to another source, or the disk fails.
    """

    def __init__(
        self, folder: Path, identity: SourceIdentity, settings: InferenceSettings, *, opened_ms: int
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._identity = identity
        self._settings = settings
        self._composer = Composer(identity.source)
        self.damages: list[Damage] = []
        self._connection = open_outbox_file(folder / OUTBOX_FILE, create=True)
        self._state = self._load(opened_ms)

    @property
    def closed(self) -> bool:
        """Whether `source.closed` was written: nothing can follow it."""
        return self._state.closed

    @property
    def events(self) -> int:
        """Events that this outbox has made so far, the published ones too."""
        return self._state.next_sequence - 1

    @property
    def added_bytes(self) -> int:
        """Bytes of all events that it has made."""
        return self._state.added_bytes

    def drain(self, spool: Path) -> int:
        """Turn what the spool holds into events, batch by batch, and delete its read segments.

        Stops at the bound on unpublished bytes; the spool then keeps the rest.

        Returns:
            How many records it took.
        """
        taken = 0
        while self.pending_bytes() < self._settings.outbox_max_bytes:
            items, position = read_spool(
                spool, self._state.position, self._settings.outbox_batch_records
            )
            if not items:
                break
            self.take(items, position)
            taken += len(items)
        for number in segment_numbers(spool):
            if number < self._state.position.segment:
                segment_path(spool, number).unlink(missing_ok=True)
        return taken

    @property
    def position(self) -> Position:
        """How far the spool was read."""
        return self._state.position

    @property
    def connection(self) -> sqlite3.Connection:
        """For who keeps what belongs to these events in the same file; see `take`."""
        return self._connection

    def take(
        self,
        items: Sequence[Record | Damage],
        position: Position,
        also: Callable[[], None] | None = None,
    ) -> None:
        """Make events of records and move on in the spool, in one transaction.

        `also` is called within it, to write with `connection` what must not be there without these
        events, nor they without it.

        A damaged frame becomes a `usage.lost` event: the loss is declared, never silent.

        Raises:
            SpoolError: If the source is closed or has used up its sequence.
        """
        state = self._copy_of_state()
        rows = [
            self._row(self._loss(item, state) if isinstance(item, Damage) else item, state)
            for item in items
        ]
        self.damages += [item for item in items if isinstance(item, Damage)]
        state.position = position
        self._commit(rows, state, also)

    def close_source(self, reason: CloseReason, *, now_ms: int) -> None:
        """Write `source.closed`, which signs what no interval did; again is a no-op."""
        if self._state.closed:
            return
        entropy = derived_entropy(self._identity.source, "closed")
        data = to_json(ClosedWire(reason=reason))
        state = self._copy_of_state()
        row = self._row(Record("source.closed", uuid7(now_ms, entropy), THE_SOURCE, data), state)
        state.closed = True
        self._commit([row], state)

    def pending_bytes(self) -> int:
        """Bytes of events that Kafka has not acknowledged yet."""
        (published,) = self._connection.execute("SELECT bytes FROM published").fetchone()
        return self._state.added_bytes - int(published)

    def close(self) -> None:
        """Let go of the file; what is committed stays."""
        self._connection.close()

    def _copy_of_state(self) -> _State:
        if self._state.closed:
            raise SpoolError(f"source {self._identity.source} is closed, nothing can follow")
        state = self._state
        return _State(
            state.next_sequence,
            state.position,
            state.range_first,
            state.range_hashes.copy(),
            state.latest_id,
            state.added_bytes,
            state.closed,
        )

    def _row(self, record: Record, state: _State) -> OutboxRow:
        """The next event: numbered, composed, hashed; an interval or closing signs its range."""
        kind = record.kind
        sequence = state.next_sequence
        if sequence > SEQUENCE_MAX:
            raise SpoolError(f"source {self._identity.source}: sequence {sequence} is used up")
        if kind in _SIGNED:
            value = self._composer.compose(
                record, sequence, self._sign(_SIGNED[kind], sequence, state)
            )
            state.range_first = sequence
            state.range_hashes.clear()
        else:
            value = self._composer.compose(record, sequence)
        state.range_hashes.append(content_hash(value))
        state.next_sequence = sequence + 1
        state.latest_id = record.id
        state.added_bytes += len(value)
        topic = _TOPICS[kind]
        key = record.id.encode() if topic == "usage.v1" else self._key_of(topic, kind)
        return OutboxRow(sequence, topic, key, value)

    def _sign(self, purpose: RangePurpose, sequence: int, state: _State) -> SignedRange:
        digest = range_sha256(state.range_hashes)
        return self._identity.key.sign_range(
            self._identity.source, purpose, state.range_first, sequence - 1, digest
        )

    def _key_of(self, topic: str, kind: str) -> bytes:
        source = self._identity.source
        if topic == "control.v1":
            return f"{source}/{kind.removeprefix('source.')}".encode()
        return source.encode()

    def _loss(self, damage: Damage, state: _State) -> Record:
        """What can be said of a frame that cannot be read: one record, after the latest known."""
        segment, offset = damage.position
        latest_ms = unix_ms_of(state.latest_id)
        when = format_time(latest_ms)
        data = LostWire(reason=damage.reason, requests=1, first_lost_at=when, last_lost_at=when)
        entropy = derived_entropy(self._identity.source, damage.reason, str(segment), str(offset))
        return Record("usage.lost", uuid7(latest_ms, entropy), THE_SOURCE, to_json(data))

    def _load(self, opened_ms: int) -> _State:
        found = self._connection.execute(
            "SELECT source, next_sequence, segment, offset, range_first, range_hashes, latest_id,"
            " added_bytes, closed FROM source"
        ).fetchone()
        if found is None:
            return self._first(opened_ms)
        if found[0] != self._identity.source:
            raise SpoolError(f"{self._folder} is the outbox of source {found[0]}")
        hashes = found[5]
        starts = range(0, len(hashes), CONTENT_HASH_BYTES)
        return _State(
            next_sequence=found[1],
            position=Position(found[2], found[3]),
            range_first=found[4],
            range_hashes=[hashes[start : start + CONTENT_HASH_BYTES] for start in starts],
            latest_id=found[6],
            added_bytes=found[7],
            closed=bool(found[8]),
        )

    def _first(self, opened_ms: int) -> _State:
        identity = self._identity
        data = OpenedWire(
            host=identity.host,
            software=identity.software,
            public_key=identity.key.public_key_hex(),
        )
        event_id = uuid7(opened_ms, derived_entropy(identity.source, "opened"))
        state = _State(1, Position(0, 0), 1, [], event_id, 0, closed=False)
        row = self._row(Record("source.opened", event_id, THE_SOURCE, to_json(data)), state)
        with transaction(self._connection):
            self._connection.execute("INSERT INTO published VALUES (1, 0, 0)")
            self._connection.execute(
                "INSERT INTO source VALUES (1, ?, ?, ?, 0, 0, 0, 0, x'', '', 0, 0)",
                (identity.source, identity.host, identity.key.public_key_hex()),
            )
            self._write(row, state)
        return state

    def _write(self, row: OutboxRow, state: _State) -> None:
        self._connection.execute("INSERT INTO events VALUES (?, ?, ?, ?)", row)
        self._write_state(state)

    def _commit(
        self, rows: Sequence[OutboxRow], state: _State, also: Callable[[], None] | None = None
    ) -> None:
        with transaction(self._connection):
            if also is not None:
                also()
            self._connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows)
            self._write_state(state)
        self._state = state

    def _write_state(self, state: _State) -> None:
        self._connection.execute(
            "UPDATE source SET next_sequence=?, segment=?, offset=?, range_first=?,"
            " range_hashes=?, latest_id=?, added_bytes=?, closed=?",
            (
                state.next_sequence,
                *state.position,
                state.range_first,
                b"".join(state.range_hashes),
                state.latest_id,
                state.added_bytes,
                state.closed,
            ),
        )


class OutboxReader:
    """The publishing end: reads events in order and deletes what Kafka has acknowledged.

    Raises:
        SpoolError: If there is no outbox in the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._connection = open_outbox_file(folder / OUTBOX_FILE, create=False)
        found = self._connection.execute("SELECT source FROM source").fetchone()
        if found is None:
            raise SpoolError(f"{folder / OUTBOX_FILE} has no source: it was never opened")
        self.source = str(found[0])

    def read(self, after: int, limit: int) -> list[OutboxRow]:
        """Up to `limit` unpublished events with a sequence above `after`, in order."""
        rows = self._connection.execute(
            "SELECT sequence, topic, key, value FROM events WHERE sequence > ?"
            " ORDER BY sequence LIMIT ?",
            (after, limit),
        )
        return [OutboxRow(*row) for row in rows]

    def acknowledge(self, sequences: Sequence[int]) -> None:
        """Delete events that Kafka has for good."""
        marks = [(sequence,) for sequence in sequences]
        with transaction(self._connection):
            before = self._connection.execute("SELECT bytes FROM published").fetchone()[0]
            freed = 0
            for mark in marks:
                size = self._connection.execute(
                    "DELETE FROM events WHERE sequence = ? RETURNING length(value)", mark
                ).fetchone()
                freed += size[0] if size else 0
            self._connection.execute(
                "UPDATE published SET bytes = ?, events = events + ?", (before + freed, len(marks))
            )

    def unpublished(self) -> int:
        """Events that are still to be acknowledged."""
        (count,) = self._connection.execute("SELECT count(*) FROM events").fetchone()
        return int(count)

    def backlog(self) -> tuple[int, int]:
        """Unpublished events and their bytes, by the counters: as fast for millions as for one."""
        row = self._connection.execute(
            "SELECT next_sequence - 1 - events, added_bytes - bytes FROM source, published"
        ).fetchone()
        return int(row[0]), int(row[1])

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()
