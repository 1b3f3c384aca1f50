"""ClickHouse migrations on a real server: the effect of each, and what goes wrong."""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.clickhouse.client import ClickHouseError, Client, connect
from infra.clickhouse.migrate import AppliedMigration, migrate, read_migrations
from schemas.errors import MigrationError
from schemas.tables import TABLES, USAGE_HOURLY_RUNS, Table

PACKAGED = Path(__file__).parents[2] / "infra" / "clickhouse" / "migrations"
_numbers = itertools.count(1)


@pytest.fixture
def database(clickhouse_url: str) -> Iterator[str]:
    """The name of a database that is not there; dropped afterwards."""
    name = f"migrations_{os.getpid()}_{next(_numbers)}"
    yield name
    with connect(clickhouse_url, "default") as client:
        client.command(f"DROP DATABASE IF EXISTS {name} SYNC")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for migrations of a test's own."""
    path = tmp_path / "migrations"
    path.mkdir()
    return path


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)


def table(name: str) -> str:
    return f"CREATE TABLE IF NOT EXISTS {name} (b Int64) ENGINE = MergeTree ORDER BY b;\n"


def tables_of(client: Client, database: str) -> set[str]:
    found = client.query(
        "SELECT name FROM system.tables WHERE database = {d:String}", parameters={"d": database}
    )
    return {row[0] for row in found.result_rows}


def columns_of(client: Client, database: str, name: str) -> list[tuple[str, str]]:
    found = client.query(
        "SELECT name, type FROM system.columns WHERE database = {d:String} AND table = {t:String}"
        " ORDER BY position",
        parameters={"d": database, "t": name},
    )
    return [(row[0], row[1]) for row in found.result_rows]


def names(applied: list[AppliedMigration]) -> list[str]:
    return [migration.name for migration in applied]


@pytest.mark.parametrize("declared", TABLES, ids=lambda declared: declared.name)
def test_table_is_the_declared_one(clickhouse_url: str, database: str, declared: Table) -> None:
    migrate(clickhouse_url, database)
    with connect(clickhouse_url, database) as client:
        found = columns_of(client, database, declared.name)
        assert found == [(column.name, column.type) for column in declared.columns]
        (sorting_key,) = client.query(
            "SELECT sorting_key FROM system.tables WHERE database = {d:String}"
            " AND name = {t:String}",
            parameters={"d": database, "t": declared.name},
        ).result_rows[0]
    assert sorting_key == ", ".join(declared.order_by)


def test_migrations_create_the_declared_tables_and_nothing_else(
    clickhouse_url: str, database: str
) -> None:
    migrate(clickhouse_url, database)
    with connect(clickhouse_url, database) as client:
        declared = {declared.name for declared in TABLES}
        assert tables_of(client, database) == declared | {"usage_hourly", "schema_migrations"}


def test_0001_copies_collapse_and_conflicts_stay(
    clickhouse_url: str, database: str, folder: Path
) -> None:
    shutil.copy(PACKAGED / "0001_ledger.sql", folder)
    assert names(migrate(clickhouse_url, database, folder=folder)) == ["0001_ledger.sql"]
    event_id = "019a0000-0000-7000-8000-000000000001"
    with connect(clickhouse_url, database) as client:
        for content_hash in ("a" * 16, "a" * 16, "b" * 16):
            client.command(
                "INSERT INTO usage_events (tenant, event_time, event_id, content_hash)"
                " SELECT 'acme', UUIDv7ToDateTime(id, 'UTC'), id, {h:String}"
                " FROM (SELECT toUUID({id:String}) AS id)",
                parameters={"id": event_id, "h": content_hash},
                settings={"insert_deduplicate": 0},
            )
        rows = client.query(
            "SELECT toString(content_hash) FROM usage_events FINAL ORDER BY content_hash"
        ).result_rows
        assert [row[0] for row in rows] == ["a" * 16, "b" * 16]
        with pytest.raises(ClickHouseError, match="time_is_the_ids"):
            client.command(
                "INSERT INTO usage_events (tenant, event_time, event_id, content_hash)"
                " VALUES ('acme', '2026-10-01 00:00:00.000', {id:String}, 'c')",
                parameters={"id": event_id},
            )


def test_0002_only_the_published_run_with_the_highest_position_counts(
    clickhouse_url: str, database: str
) -> None:
    applied = migrate(clickhouse_url, database)
    assert names(applied)[:2] == ["0001_ledger.sql", "0002_rollups.sql"]
    old, new, unpublished = "1" * 64, "2" * 64, "3" * 64
    with connect(clickhouse_url, database) as client:
        view = columns_of(client, database, "usage_hourly")
        assert view == [(column.name, column.type) for column in USAGE_HOURLY_RUNS.columns]
        for run_id, requests in ((old, 5), (new, 7), (unpublished, 9)):
            client.command(
                "INSERT INTO usage_hourly_runs (hour, run_id, tenant, requests)"
                " VALUES ('2026-10-01 00:00:00', {run:String}, 'acme', {n:Int64})",
                parameters={"run": run_id, "n": requests},
            )
        for position, run_id in ((2, new), (1, old)):
            client.command(
                "INSERT INTO rollup_runs (hour, run_id, position)"
                " VALUES ('2026-10-01 00:00:00', {run:String}, {p:UInt32})",
                parameters={"run": run_id, "p": position},
            )
        rows = client.query("SELECT toString(run_id), requests FROM usage_hourly").result_rows
    assert [tuple(row) for row in rows] == [(new, 7)]


def test_0003_a_tenant_is_in_a_run_once(clickhouse_url: str, database: str) -> None:
    migrate(clickhouse_url, database)
    with connect(clickhouse_url, database) as client:
        for _ in range(2):
            client.command(
                "INSERT INTO run_tenants VALUES ('2026-10-01 00:00:00', {run:String}, 'acme', 2, 3,"
                " {run:String})",
                parameters={"run": "1" * 64},
                settings={"insert_deduplicate": 0},
            )
        rows = client.query("SELECT tenant, requests, events FROM run_tenants FINAL").result_rows
    assert [tuple(row) for row in rows] == [("acme", 2, 3)]


def test_0004_packed_columns_hold_the_same_values(clickhouse_url: str, database: str) -> None:
    migrate(clickhouse_url, database)
    with connect(clickhouse_url, database) as client:
        client.command(
            "INSERT INTO usage_events (tenant, event_time, event_id, content_hash, service_tier,"
            " parts_ordinal, parts_gpu_ns) SELECT 'acme', UUIDv7ToDateTime(id, 'UTC'), id, 'a',"
            " 'flex', [1, 4294967295], [0, 9223372036854775807]"
            " FROM (SELECT toUUID('019a0000-0000-7000-8000-000000000001') AS id)"
        )
        client.command("OPTIMIZE TABLE usage_events FINAL")
        (row,) = client.query(
            "SELECT service_tier, parts_ordinal, parts_gpu_ns FROM usage_events FINAL"
        ).result_rows
        assert row == ("flex", [1, 2**32 - 1], [0, 2**63 - 1])
        codecs = client.query(
            "SELECT name, compression_codec FROM system.columns WHERE database = {d:String}"
            " AND table = 'usage_events' AND name LIKE 'parts_%' AND name != 'parts_engine'",
            parameters={"d": database},
        ).result_rows
    assert {codec for _, codec in codecs} == {"CODEC(T64, ZSTD(1))"}


def test_0005_of_an_hour_the_newest_findings_count(clickhouse_url: str, database: str) -> None:
    assert "0005_hour_findings.sql" in names(migrate(clickhouse_url, database))
    with connect(clickhouse_url, database) as client:
        for second, quarantined in ((2, 7), (1, 5)):
            client.command(
                "INSERT INTO hour_findings (hour, checked_at, quarantined_events)"
                f" VALUES ('2026-10-01 00:00:00', '2026-11-01 00:00:0{second}', {quarantined})"
            )
        rows = client.query("SELECT quarantined_events FROM hour_findings FINAL").result_rows
    assert rows == [(7,)]


def test_every_migration_has_a_test_of_its_effect() -> None:
    tests = [name for name in globals() if name.startswith("test_0")]
    for file in read_migrations():
        assert any(name.startswith(f"test_{file.version:04}_") for name in tests), file.name


def test_second_run_finds_nothing_to_do(clickhouse_url: str, database: str) -> None:
    first = migrate(clickhouse_url, database)
    assert all(migration.applied_at is not None for migration in first)
    assert migrate(clickhouse_url, database) == []


def test_dry_run_on_nothing_leaves_no_trace(clickhouse_url: str, database: str) -> None:
    planned = migrate(clickhouse_url, database, dry_run=True)
    assert names(planned) == [file.name for file in read_migrations()]
    assert [migration.applied_at for migration in planned] == [None] * len(planned)
    with connect(clickhouse_url, "default") as client:
        assert tables_of(client, database) == set()
        databases = client.query("SHOW DATABASES").result_rows
    assert database not in {row[0] for row in databases}


def test_dry_run_shows_only_what_is_missing_and_leaves_no_trace(
    clickhouse_url: str, database: str, folder: Path
) -> None:
    write(folder, "0001_a.sql", table("a"))
    migrate(clickhouse_url, database, folder=folder)
    write(folder, "0002_b.sql", table("b"))
    planned = migrate(clickhouse_url, database, dry_run=True, folder=folder)
    assert names(planned) == ["0002_b.sql"]
    assert planned[0].statements == (table("b").rstrip(";\n"),)
    with connect(clickhouse_url, database) as client:
        assert tables_of(client, database) == {"a", "schema_migrations"}
        assert client.command("SELECT count() FROM schema_migrations") == 1


def test_dry_run_in_an_empty_database_creates_no_record_table(
    clickhouse_url: str, database: str
) -> None:
    with connect(clickhouse_url, "default") as client:
        client.command(f"CREATE DATABASE {database}")
        assert len(migrate(clickhouse_url, database, dry_run=True)) == len(read_migrations())
        assert tables_of(client, database) == set()


def test_changed_file_is_refused_with_both_checksums(
    clickhouse_url: str, database: str, folder: Path
) -> None:
    write(folder, "0001_a.sql", table("a"))
    (before,) = migrate(clickhouse_url, database, folder=folder)
    write(folder, "0001_a.sql", table("a") + "-- only a comment\n")
    (now,) = read_migrations(folder)
    expected = rf"0001_a\.sql changed .*{before.checksum}.*{now.checksum}"
    for dry_run in (True, False):
        with pytest.raises(MigrationError, match=expected):
            migrate(clickhouse_url, database, folder=folder, dry_run=dry_run)


def test_vanished_file_is_refused(clickhouse_url: str, database: str, folder: Path) -> None:
    write(folder, "0001_a.sql", table("a"))
    write(folder, "0002_b.sql", table("b"))
    migrate(clickhouse_url, database, folder=folder)
    (folder / "0002_b.sql").unlink()
    with pytest.raises(MigrationError, match=r"0002_b\.sql .* not among the migrations any more"):
        migrate(clickhouse_url, database, folder=folder)


def test_renamed_file_is_refused(clickhouse_url: str, database: str, folder: Path) -> None:
    write(folder, "0001_a.sql", table("a"))
    migrate(clickhouse_url, database, folder=folder)
    (folder / "0001_a.sql").rename(folder / "0001_b.sql")
    with pytest.raises(MigrationError, match=r"its number is now 0001_b\.sql"):
        migrate(clickhouse_url, database, folder=folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("0001_a.sql", "0003_c.sql"), r"0003_c\.sql: number missing: 0002, next to 0001_a\.sql"),
        (("0002_b.sql",), r"0002_b\.sql: number missing: 0001, next to the start"),
        (("0001_a.sql", "0001_b.sql"), r"0001_b\.sql: number doubled, next to 0001_a\.sql"),
        (("1_a.sql",), r"named like 0001_ledger\.sql, not 1_a\.sql"),
    ],
)
def test_numbers_run_without_gap_and_double(
    clickhouse_url: str, database: str, folder: Path, files: tuple[str, ...], message: str
) -> None:
    for name in files:
        write(folder, name, table("a"))
    with pytest.raises(MigrationError, match=message):
        migrate(clickhouse_url, database, folder=folder)
    with connect(clickhouse_url, "default") as client:
        assert tables_of(client, database) == set()


def test_refused_statement_names_file_and_can_be_mended_and_continued(
    clickhouse_url: str, database: str, folder: Path
) -> None:
    broken = "CREATE TABLE IF NOT EXISTS b (b NoSuchType) ENGINE = MergeTree ORDER BY b;\n"
    write(folder, "0001_a.sql", table("a") + broken + table("c"))
    with pytest.raises(MigrationError, match=r"0001_a\.sql: the server refused .*NoSuchType"):
        migrate(clickhouse_url, database, folder=folder)
    write(folder, "0001_a.sql", table("a") + table("b") + table("c"))
    (continued,) = migrate(clickhouse_url, database, folder=folder)
    assert len(continued.statements) == 2
    with connect(clickhouse_url, database) as client:
        assert tables_of(client, database) == {"a", "b", "c", "schema_migrations"}
    assert migrate(clickhouse_url, database, folder=folder) == []


@pytest.mark.parametrize("mended", [table("other") + table("b") + table("c"), table("a")])
def test_statement_that_ran_cannot_be_mended(
    clickhouse_url: str, database: str, folder: Path, mended: str
) -> None:
    broken = "CREATE TABLE IF NOT EXISTS c (b NoSuchType);"
    write(folder, "0001_a.sql", table("a") + table("b") + broken)
    with pytest.raises(MigrationError, match="refused"):
        migrate(clickhouse_url, database, folder=folder)
    write(folder, "0001_a.sql", mended)
    with pytest.raises(MigrationError, match="changed after it was applied"):
        migrate(clickhouse_url, database, folder=folder)


def test_crash_between_a_statement_and_its_record_is_continued(
    clickhouse_url: str, database: str, folder: Path
) -> None:
    with connect(clickhouse_url, "default") as client:
        client.command(f"CREATE DATABASE {database}")
    with connect(clickhouse_url, database) as client:
        client.command(table("a").rstrip(";\n"))
    write(folder, "0001_a.sql", table("a") + table("b"))
    assert names(migrate(clickhouse_url, database, folder=folder)) == ["0001_a.sql"]


MIGRATE = """
import sys
from pathlib import Path
from infra.clickhouse.migrate import migrate
migrate(sys.argv[1], sys.argv[2], folder=Path(sys.argv[3]))
"""


def test_killed_run_is_continued(clickhouse_url: str, database: str, folder: Path) -> None:
    total = 200
    write(folder, "0001_a.sql", "".join(table(f"t{number}") for number in range(total)))
    command = [sys.executable, "-c", MIGRATE, clickhouse_url, database, str(folder)]
    with (
        connect(clickhouse_url, "default") as client,
        subprocess.Popen(command) as process,
    ):
        while len(tables_of(client, database)) < 5:
            assert process.poll() is None
        process.kill()
    (continued,) = migrate(clickhouse_url, database, folder=folder)
    assert 0 < len(continued.statements) < total
    with connect(clickhouse_url, database) as client:
        assert len(tables_of(client, database)) == total + 1
    assert migrate(clickhouse_url, database, folder=folder) == []


def test_two_runs_at_once_do_no_harm(clickhouse_url: str, database: str) -> None:
    command = [sys.executable, "-c", MIGRATE, clickhouse_url, database, str(PACKAGED)]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [run.communicate(timeout=60)[1] for run in runs] == ["", ""]
    assert migrate(clickhouse_url, database) == []


def test_database_name_that_could_break_out_is_refused(clickhouse_url: str) -> None:
    with pytest.raises(MigrationError, match="not a database's name"):
        migrate(clickhouse_url, "a; DROP DATABASE b")
