"""Brings a ClickHouse database to the newest schema by the numbered files in `migrations/`.

Rules: a file that was applied never changes or vanishes; numbers run 1, 2, 3, …; each statement
can be run twice. Statements are recorded one by one, so a crash half-way through a file is
continued behind the last recorded statement, and two runs at once do no harm.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path

from infra.clickhouse.client import ClickHouseError, Client, connect
from infra.clickhouse.statements import demand_rerunnable, for_cluster, split_statements
from schemas.errors import MigrationError

_FILE_NAME = re.compile(r"([0-9]{4})_([a-z0-9_]+)\.sql")
_DATABASE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CREATE_RECORD_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations
(
    version UInt16,
    statement UInt16,
    statements UInt16,
    name String,
    checksum FixedString(64),
    statement_checksum FixedString(64),
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY (version, statement)
"""


@dataclass(frozen=True, slots=True)
class AppliedMigration:
    """A migration that a run applied, or would apply (then without a time)."""

    version: int
    name: str
    checksum: str
    statements: tuple[str, ...]
    applied_at: datetime | None


@dataclass(frozen=True, slots=True)
class MigrationFile:
    """A numbered file of statements; `checksum` is the SHA-256 of its bytes, as hex."""

    version: int
    name: str
    checksum: str
    statements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What the database remembers of one file."""

    version: int
    name: str
    checksum: str
    statements: int
    done: dict[int, str]
    """SHA-256 of each statement that was run, by its number from 1."""

    @property
    def complete(self) -> bool:
        return len(self.done) == self.statements


def migrate(
    url: str,
    database: str,
    *,
    dry_run: bool = False,
    cluster: str | None = None,
    folder: Path | None = None,
) -> list[AppliedMigration]:
    """Create the database where it is missing and apply what it has not seen yet.

    Args:
        url: Where ClickHouse answers, as `infra.clickhouse.client.connect` takes it.
        database: The ledger's database.
        dry_run: Only return what would be applied; nothing is written, not even the database.
        cluster: Replicate tables over this cluster; `None` for a single node.
        folder: Other migrations than those of this package; for tests.

    Returns:
        The migrations of this run in order, each with the statements that were sent; empty if
        the database was current.

    Raises:
        MigrationError: If an applied file changed or vanished, a number is missing or doubled,
            a statement is not re-runnable, or the server refuses one. What ran before stays.
    """
    if not _DATABASE_NAME.fullmatch(database):
        raise MigrationError(f"not a database's name: {database!r}")
    known = read_migrations(folder)
    with connect(url, "default") as client:
        if not dry_run:
            _send(client, f"CREATE DATABASE IF NOT EXISTS {database}", database, cluster)
        elif not _exists(client, database):
            return [_as_result(file, file.statements, None) for file in known]
    with connect(url, database) as client:
        if not dry_run:
            _send(client, _CREATE_RECORD_TABLE, database, cluster)
        recorded = _read_record(client)
        check_history(known, recorded.values())
        pending = [(file, _remaining(file, recorded.get(file.version))) for file in known]
        if dry_run:
            return [_as_result(file, rest, None) for file, rest in pending if rest]
        return [_apply(client, file, rest, cluster) for file, rest in pending if rest]


def read_migrations(folder: Path | None = None) -> list[MigrationFile]:
    """The migrations of this package (or of `folder`) in order.

    Raises:
        MigrationError: If a file is not named `NNNN_name.sql`, a number is missing or doubled,
            or a statement cannot be read or run again.
    """
    source = files("infra.clickhouse").joinpath("migrations") if folder is None else folder
    found = [
        _read(entry.name, entry.read_bytes())
        for entry in sorted(source.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".sql")
    ]
    for place, file in enumerate(found, start=1):
        if file.version != place:
            beside = found[place - 2].name if place > 1 else "the start"
            what = "doubled" if file.version < place else f"missing: {place:04}"
            raise MigrationError(f"{file.name}: number {what}, next to {beside}")
    return found


def check_history(known: list[MigrationFile], recorded: Iterable[_Recorded]) -> None:
    """Hold the files to what the database has seen of them.

    Raises:
        MigrationError: If a file changed or vanished since it was applied, or began to be.
    """
    by_version = {file.version: file for file in known}
    for past in recorded:
        file = by_version.get(past.version)
        if file is None or file.name != past.name:
            raise MigrationError(
                f"{past.name} (SHA-256 {past.checksum}) was applied and is not among the"
                f" migrations any more{f': its number is now {file.name}' if file else ''}",
            )
        changed = past.complete and file.checksum != past.checksum
        if changed or any(_checksum(file, number) != seen for number, seen in past.done.items()):
            raise MigrationError(
                f"{file.name} changed after it was applied: SHA-256 then {past.checksum},"
                f" now {file.checksum}; put it back and write a new migration",
            )


def _read(file_name: str, raw: bytes) -> MigrationFile:
    match = _FILE_NAME.fullmatch(file_name)
    if match is None:
        raise MigrationError(f"a migration is named like 0001_ledger.sql, not {file_name}")
    statements = split_statements(raw.decode(), file_name)
    for statement in statements:
        demand_rerunnable(statement, file_name)
    return MigrationFile(
        int(match[1]), file_name, hashlib.sha256(raw).hexdigest(), tuple(statements)
    )


def _checksum(file: MigrationFile, number: int) -> str:
    """SHA-256 of the file's statement with that number (from 1); empty where there is none."""
    if number > len(file.statements):
        return ""
    return hashlib.sha256(file.statements[number - 1].encode()).hexdigest()


def _remaining(file: MigrationFile, past: _Recorded | None) -> tuple[str, ...]:
    if past is None:
        return file.statements
    return () if past.complete else file.statements[len(past.done) :]


def _exists(client: Client, database: str) -> bool:
    found = client.query(
        "SELECT count() FROM system.databases WHERE name = {database:String}",
        parameters={"database": database},
    )
    return bool(found.result_rows[0][0])


def _read_record(client: Client) -> dict[int, _Recorded]:
    if not client.command("EXISTS TABLE schema_migrations"):
        return {}
    rows = client.query(
        "SELECT version, name, toString(checksum), statements, statement,"
        " toString(statement_checksum) FROM schema_migrations FINAL ORDER BY version, statement"
    ).result_rows
    recorded: dict[int, _Recorded] = {}
    for version, name, checksum, statements, statement, statement_checksum in rows:
        done = recorded[version].done if version in recorded else {}
        done[statement] = statement_checksum
        # The newest row tells how long the file is: a fixed file may have continued a failed one.
        recorded[version] = _Recorded(version, name, checksum, statements, done)
    return recorded


def _apply(
    client: Client, file: MigrationFile, statements: tuple[str, ...], cluster: str | None
) -> AppliedMigration:
    first = len(file.statements) - len(statements) + 1
    for number, statement in enumerate(statements, start=first):
        _send(client, statement, file.name, cluster)
        client.command(
            "INSERT INTO schema_migrations"
            " (version, statement, statements, name, checksum, statement_checksum) VALUES"
            " ({version:UInt16}, {number:UInt16}, {total:UInt16}, {name:String},"
            " {checksum:String}, {one:String})",
            parameters={
                "version": file.version,
                "number": number,
                "total": len(file.statements),
                "name": file.name,
                "checksum": file.checksum,
                "one": _checksum(file, number),
            },
        )
    found = client.query(
        "SELECT max(applied_at) FROM schema_migrations WHERE version = {version:UInt16}",
        parameters={"version": file.version},
    )
    return _as_result(file, statements, found.result_rows[0][0])


def _as_result(
    file: MigrationFile, statements: tuple[str, ...], applied_at: datetime | None
) -> AppliedMigration:
    return AppliedMigration(file.version, file.name, file.checksum, statements, applied_at)


def _send(client: Client, statement: str, what: str, cluster: str | None) -> None:
    try:
        client.command(for_cluster(statement, cluster))
    except ClickHouseError as error:
        raise MigrationError(f"{what}: the server refused {statement[:80]!r}: {error}") from error
