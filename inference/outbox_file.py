"""The SQLite file of an outbox: its tables, and how it is opened and written."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.errors import SpoolError

OUTBOX_FILE = "outbox.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS source (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    source TEXT NOT NULL, host TEXT NOT NULL, public_key TEXT NOT NULL,
    next_sequence INTEGER NOT NULL, segment INTEGER NOT NULL, offset INTEGER NOT NULL,
    range_first INTEGER NOT NULL, range_hashes BLOB NOT NULL,
    latest_id TEXT NOT NULL, added_bytes INTEGER NOT NULL, closed INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS published (only INTEGER PRIMARY KEY CHECK (only = 1),
    events INTEGER NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS events (
    sequence INTEGER PRIMARY KEY, topic TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL);
"""


def open_outbox_file(path: Path, *, create: bool) -> sqlite3.Connection:
    """A connection that is durable at commit and waits for the other end's transactions.

    Raises:
        SpoolError: If there is no such file and it is not to be created.
    """
    if not create and not path.exists():
        raise SpoolError(f"no outbox at {path}")
    connection = sqlite3.connect(path, isolation_level=None, timeout=60)
    connection.execute("PRAGMA page_size=32768")
    # New pages need no journal, so a batch is written once; a WAL would write it twice.
    connection.execute("PRAGMA journal_mode=TRUNCATE")
    connection.execute("PRAGMA synchronous=FULL")
    # In one transaction, which waits for the disk once; where all is there it writes nothing.
    connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT")
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; the write lock is taken at once.

    Raises:
        SpoolError: If SQLite or the disk refuses.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise SpoolError(f"outbox: {error}") from error
