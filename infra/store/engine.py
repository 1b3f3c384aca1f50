"""Opens the billing store by its SQLAlchemy URL, with the settings that durability needs."""

from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text

PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "recursive_triggers=ON")


def open_store(url: str) -> Engine:
    """An engine on the billing store at `url` (`sqlite:///path` or `postgresql+psycopg://…`).

    SQLite runs in WAL mode with full sync and enforced foreign keys, and every transaction that
    begins takes the write lock at once, so that two runners queue instead of failing half-way.
    Recursive triggers let the triggers against deletion see `INSERT OR REPLACE` too.
    """
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True)
    engine = create_engine(url, connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def _durable(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _take_the_write_lock(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def take_turns(connection: Connection, what: str) -> None:
    """Wait until no other transaction holds the turn for `what`, and hold it until this one ends.

    For writes that first read: without it two writers would both see the same newest row. SQLite
    needs nothing, since there every transaction holds the write lock from its beginning.
    """
    if connection.dialect.name == "postgresql":
        key = text("SELECT pg_advisory_xact_lock(hashtextextended(:what, 0))")
        connection.execute(key, {"what": f"rentroll/{what}"})
