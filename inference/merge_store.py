"""Keeps the merging state of a host in its outbox's file, written with the events made of it.

One transaction holds a round's events, how far each spool was read, and what is still waiting: a
kill at any instant repeats the round or finds it done, never half of it.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from inference.emitted_totals import prepare
from inference.merge import Changed, DoorState, EngineState, Merge, WaitingRequest
from inference.merged_events import EnginePart
from inference.spool import Position

_SCHEMA = """
CREATE TABLE IF NOT EXISTS merge_spools (
    spool TEXT PRIMARY KEY, segment INTEGER NOT NULL, offset INTEGER NOT NULL,
    ended INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS merge_state (
    kind TEXT NOT NULL, id TEXT NOT NULL, state BLOB NOT NULL, PRIMARY KEY (kind, id));
CREATE TABLE IF NOT EXISTS merge_finished (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL, finished_ms INTEGER NOT NULL);
"""


class SpoolState(msgspec.Struct):
    """How far a spool was read; `ended` if its writer is dead and all of it was."""

    position: Position = Position(0, 0)
    ended: bool = False


class MergeStore:
    """Reads the state once and writes what changes; call `save` inside the outbox's transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.executescript(_SCHEMA)
        prepare(connection)

    def load(self, merge: Merge) -> dict[str, SpoolState]:
        """Bring a merge to where it was; how far each spool was read."""
        finished = dict(self._connection.execute("SELECT id, tenant FROM merge_finished"))
        merge.restore(
            self._states("request", WaitingRequest),
            self._states("engine", EngineState),
            self._states("door", DoorState),
            finished,
            [one for parts in self._states("strays", list[EnginePart]).values() for one in parts],
        )
        rows = self._connection.execute("SELECT spool, segment, offset, ended FROM merge_spools")
        return {
            spool: SpoolState(Position(segment, offset), bool(ended))
            for spool, segment, offset, ended in rows
        }

    def save(
        self, merge: Merge, changed: Changed, spools: Mapping[str, SpoolState], now_ms: int
    ) -> None:
        """Write what a round has changed."""
        self._connection.executemany(
            "INSERT OR REPLACE INTO merge_spools VALUES (?, ?, ?, ?)",
            [(name, *state.position, state.ended) for name, state in spools.items()],
        )
        self._write("request", changed.requests, merge.requests)
        self._write("engine", changed.engines, merge.engines)
        self._write("door", changed.doors, merge.doors)
        self._write("strays", [""], {"": merge.strays} if merge.strays else {})
        self._connection.executemany(
            "INSERT OR REPLACE INTO merge_finished VALUES (?, ?, ?)",
            [(event_id, tenant, now_ms) for event_id, tenant in changed.finished.items()],
        )

    def forget_before(self, finished_ms: int) -> list[str]:
        """Forget whose the requests were that finished before; their ids."""
        rows = self._connection.execute(
            "DELETE FROM merge_finished WHERE finished_ms < ? RETURNING id", (finished_ms,)
        )
        return [event_id for (event_id,) in rows]

    def forget_spools(self, names: Iterable[str]) -> None:
        """Forget spools that are deleted."""
        self._connection.executemany(
            "DELETE FROM merge_spools WHERE spool = ?", [(name,) for name in names]
        )

    def _states(self, kind: str, state: Any) -> dict[str, Any]:
        rows = self._connection.execute("SELECT id, state FROM merge_state WHERE kind = ?", (kind,))
        return {event_id: msgspec.msgpack.decode(blob, type=state) for event_id, blob in rows}

    def _write(self, kind: str, ids: Iterable[str], states: Mapping[str, object]) -> None:
        kept = [(kind, one, _encode(states[one])) for one in ids if one in states]
        gone = [(kind, one) for one in ids if one not in states]
        self._connection.executemany("INSERT OR REPLACE INTO merge_state VALUES (?, ?, ?)", kept)
        self._connection.executemany("DELETE FROM merge_state WHERE kind = ? AND id = ?", gone)


_encode = msgspec.msgpack.Encoder().encode
