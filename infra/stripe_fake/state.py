"""Everything the stand-in knows, in one SQLite file that survives kill -9."""

import json
import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.stripe_fake.refusal import RefusalError
from schemas.clock import Clock
from schemas.ids import derived_hex
from schemas.units import NS_PER_S

Body = dict[str, Any]
"""One object, as Stripe would answer it."""
_ID_DIGITS = 24
_SCHEMA = """
CREATE TABLE IF NOT EXISTS objects(
  sequence INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
  parent TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS objects_by_kind ON objects(kind, sequence);
CREATE INDEX IF NOT EXISTS objects_by_parent ON objects(kind, parent, sequence);
CREATE TABLE IF NOT EXISTS keys(
  key TEXT PRIMARY KEY, digest TEXT NOT NULL, status INTEGER NOT NULL, body TEXT NOT NULL,
  request_id TEXT NOT NULL, used_at_s INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS keys_by_age ON keys(used_at_s);
CREATE TABLE IF NOT EXISTS counters(name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""
_COMPARISONS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


class State:
    """Objects and idempotency keys; every method runs inside `transaction`."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._clock = clock
        self._lock = threading.RLock()
        self.connection = sqlite3.connect(
            folder / "stripe.sqlite3", isolation_level=None, check_same_thread=False
        )
        # WAL with normal sync keeps what was committed through kill -9, though not through a
        # power cut; a stand-in needs no more.
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute("PRAGMA synchronous=NORMAL")
        self.connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            self.connection.close()

    @contextmanager
    def transaction(self) -> Generator[None, None, None]:
        """One request at a time; committed on leaving, or nothing of it happened."""
        with self._lock:
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self.connection.execute("ROLLBACK")
                raise
            self.connection.execute("COMMIT")

    @contextmanager
    def undo_on_refusal(self) -> Generator[None, None, None]:
        """Inside a transaction: a refused operation leaves no trace but its idempotency key."""
        self.connection.execute("SAVEPOINT operation")
        try:
            yield
        except RefusalError:
            self.connection.execute("ROLLBACK TO operation")
            raise
        finally:
            self.connection.execute("RELEASE operation")

    def now_s(self) -> int:
        """Unix time in seconds, moved forward by what a test asked for."""
        return self._clock.now_ns() // NS_PER_S + self._counter("clock_offset_s")

    def advance(self, seconds: int) -> None:
        """Move the stand-in's clock forward, for tests of old keys."""
        self.count("clock_offset_s", seconds)

    def count(self, name: str, step: int = 1) -> int:
        """Add to a named counter; returns its new value."""
        self.connection.execute(
            "INSERT INTO counters VALUES(?, ?) ON CONFLICT(name) DO UPDATE SET value = value + ?",
            (name, step, step),
        )
        return self._counter(name)

    def new_id(self, prefix: str) -> str:
        """An id such as `in_0f3c…` that no other run of the stand-in gives out."""
        parts = (prefix, str(self.count("ids")), str(self._clock.now_ns()))
        return f"{prefix}_{derived_hex(*parts)[:_ID_DIGITS]}"

    def put(self, kind: str, body: Body, parent: str = "") -> Body:
        """Keep a new object; `parent` is the customer or the invoice that it belongs to."""
        self.connection.execute(
            "INSERT INTO objects(id, kind, parent, body) VALUES(?, ?, ?, ?)",
            (body["id"], kind, parent, json.dumps(body)),
        )
        return body

    def replace(self, body: Body) -> Body:
        """Keep what an object has become."""
        self.connection.execute(
            "UPDATE objects SET body = ? WHERE id = ?", (json.dumps(body), body["id"])
        )
        return body

    def delete(self, identifier: str) -> None:
        """Forget an object and what belongs to it."""
        self.connection.execute(
            "DELETE FROM objects WHERE id = ? OR parent = ?", (identifier, identifier)
        )

    def get(self, kind: str, identifier: str, param: str = "id") -> Body:
        """One object.

        Raises:
            RefusalError: If there is none of that kind and id.
        """
        row = self.connection.execute(
            "SELECT body FROM objects WHERE id = ? AND kind = ?", (identifier, kind)
        ).fetchone()
        if row is None:
            raise RefusalError(
                f"No such {kind}: '{identifier}'", status=404, code="resource_missing", param=param
            )
        return read_body(row[0])

    def total_of_lines(self, invoice: str) -> tuple[int, int]:
        """How many lines an invoice has, and the sum of their amounts in minor units."""
        count, total = self.connection.execute(
            "SELECT count(*), coalesce(sum(json_extract(body, '$.amount')), 0) FROM objects"
            " WHERE kind = 'line_item' AND parent = ?",
            (invoice,),
        ).fetchone()
        return count, total

    def newest(
        self, kind: str, parent: str, query: Body, fields: tuple[str, ...]
    ) -> tuple[list[Body], bool]:
        """Objects as Stripe lists them, the newest first, and whether there are more.

        Args:
            kind: Of which kind.
            parent: Of which customer or invoice; the empty string for all.
            query: The request's parameters: `limit`, `starting_after`, `created`, and filters.
            fields: Names in `query` that an object must equal.
        """
        where = ["kind = ?"]
        values: list[Any] = [kind]
        if parent:
            where.append("parent = ?")
            values.append(parent)
        for name in fields:
            if name in query:
                where.append(f"json_extract(body, '$.{name}') = ?")
                values.append(query[name])
        _add_created(query.get("created"), where, values)
        if "starting_after" in query:
            where.append("sequence < ?")
            values.append(self._sequence(query["starting_after"]))
        limit = query.get("limit", 10)
        if not 1 <= limit <= 100:  # noqa: PLR2004 -- Stripe's own bounds of a page
            raise RefusalError(f"Invalid integer: {limit}; must be 1 to 100", param="limit")
        # Only names from our own code stand in the statement; every value is bound.
        statement = (
            f"SELECT body FROM objects WHERE {' AND '.join(where)}"  # noqa: S608
            " ORDER BY sequence DESC LIMIT ?"
        )
        rows = self.connection.execute(statement, (*values, limit + 1)).fetchall()
        return [read_body(row[0]) for row in rows[:limit]], len(rows) > limit

    def events_after(self, sequence: int) -> list[tuple[int, Body]]:
        """Events with their place, from after a place on, the oldest first; a hundred at most."""
        rows = self.connection.execute(
            "SELECT sequence, body FROM objects WHERE kind = 'event' AND sequence > ?"
            " ORDER BY sequence LIMIT 100",
            (sequence,),
        ).fetchall()
        return [(row[0], read_body(row[1])) for row in rows]

    def last_sequence(self) -> int:
        """The place of the newest object."""
        (last,) = self.connection.execute(
            "SELECT coalesce(max(sequence), 0) FROM objects"
        ).fetchone()
        return int(last)

    def _sequence(self, identifier: str) -> int:
        row = self.connection.execute(
            "SELECT sequence FROM objects WHERE id = ?", (identifier,)
        ).fetchone()
        if row is None:
            raise RefusalError(
                f"No such object: '{identifier}'", code="resource_missing", param="starting_after"
            )
        return int(row[0])

    def _counter(self, name: str) -> int:
        row = self.connection.execute(
            "SELECT value FROM counters WHERE name = ?", (name,)
        ).fetchone()
        return int(row[0]) if row else 0


def _add_created(created: object, where: list[str], values: list[Any]) -> None:
    if isinstance(created, int):
        created = {"gte": created, "lte": created}
    if isinstance(created, dict):
        for name, bound in created.items():
            where.append(f"json_extract(body, '$.created') {_COMPARISONS[name]} ?")
            values.append(bound)


def read_body(text: str) -> Body:
    """An object as it was kept."""
    body: Body = json.loads(text)
    return body
