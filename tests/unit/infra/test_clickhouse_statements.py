"""Migration text: split into statements, held to re-runnable forms, fitted to a cluster."""

import pytest

from infra.clickhouse.migrate import check_history, read_migrations
from infra.clickhouse.statements import demand_rerunnable, for_cluster, split_statements
from schemas.errors import MigrationError


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("A; B;", ["A", "B"]),
        ("A;\n\n;B", ["A", "B"]),
        ("A -- no; end\nB;", ["A  \nB"]),
        ("A /* ; 'x */ B;", ["A   B"]),
        ("A # no; end\n;", ["A"]),
        ("A 'x;y'; B", ["A 'x;y'", "B"]),
        (r"A 'x\';y'; B", [r"A 'x\';y'", "B"]),
        ("A 'x'';y'; B", ["A 'x'';y'", "B"]),
        ('A `x;y` "x;y"; B', ['A `x;y` "x;y"', "B"]),
        ("A '-- text'; B", ["A '-- text'", "B"]),
        ("A 'no /* comment'; B /* ' */", ["A 'no /* comment'", "B"]),
        ("A x - -1; B", ["A x - -1", "B"]),
    ],
)
def test_semicolon_in_quotes_or_comments_ends_nothing(text: str, statements: list[str]) -> None:
    assert split_statements(text, "f.sql") == statements


@pytest.mark.parametrize("text", ["", "-- only this", ";;", "/* a */ ;"])
def test_file_without_a_statement_is_refused(text: str) -> None:
    with pytest.raises(MigrationError, match=r"f\.sql holds no statement"):
        split_statements(text, "f.sql")


@pytest.mark.parametrize("text", ["A;\nB 'x", "A;\nB `x", 'A;\nB "x', "A;\nB /* x", "A;\n'\\'"])
def test_what_is_never_closed_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(MigrationError, match=r"f\.sql:2: .* is opened and never closed"):
        split_statements(text, "f.sql")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE IF NOT EXISTS a (b Int64) ENGINE = Null",
        "create  view\nif not exists a AS SELECT 1",
        "CREATE MATERIALIZED VIEW IF NOT EXISTS a TO b AS SELECT 1",
        "CREATE OR REPLACE VIEW a AS SELECT 1",
        "DROP TABLE IF EXISTS a",
        "ALTER TABLE a ADD COLUMN IF NOT EXISTS b Decimal(38, 18)",
        "ALTER TABLE d.a ADD COLUMN IF NOT EXISTS b Int64, MODIFY SETTING c = 1",
        "ALTER TABLE a DROP COLUMN IF EXISTS b",
    ],
)
def test_statement_that_can_run_twice_passes(statement: str) -> None:
    demand_rerunnable(statement, "f.sql")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE a (b Int64) ENGINE = Null",
        "CREATE OR REPLACE TABLE a (b Int64) ENGINE = Null",
        "DROP TABLE a",
        "INSERT INTO a VALUES (1)",
        "ALTER TABLE a ADD COLUMN b Int64",
        "ALTER TABLE a ADD COLUMN IF NOT EXISTS b Int64, ADD COLUMN c Int64",
        "ALTER TABLE a UPDATE b = b + 1 WHERE 1",
        "TRUNCATE TABLE a",
        "SELECT 'CREATE TABLE IF NOT EXISTS a '",
    ],
)
def test_statement_that_cannot_run_twice_is_refused(statement: str) -> None:
    with pytest.raises(MigrationError, match=r"f\.sql: a crash could not be continued"):
        demand_rerunnable(statement, "f.sql")


def test_single_node_leaves_the_statement_alone() -> None:
    assert for_cluster("CREATE TABLE IF NOT EXISTS a", None) == "CREATE TABLE IF NOT EXISTS a"


def test_table_on_a_cluster_is_replicated_and_created_on_every_node() -> None:
    statement = (
        "CREATE TABLE IF NOT EXISTS a\n(\n    b Int64 COMMENT 'ENGINE = MergeTree'\n)\n"
        "ENGINE = ReplacingMergeTree(b)\nORDER BY b\n"
        "SETTINGS non_replicated_deduplication_window = 10000"
    )
    assert for_cluster(statement, "main") == (
        "CREATE TABLE IF NOT EXISTS a ON CLUSTER 'main'\n"
        "(\n    b Int64 COMMENT 'ENGINE = MergeTree'\n)\n"
        "ENGINE = ReplicatedReplacingMergeTree(b)\nORDER BY b\n"
        "SETTINGS replicated_deduplication_window_seconds = 604800,"
        " replicated_deduplication_window = 10000"
    )


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("CREATE DATABASE IF NOT EXISTS d", "CREATE DATABASE IF NOT EXISTS d ON CLUSTER '{c}'"),
        ("CREATE OR REPLACE VIEW d.v AS X", "CREATE OR REPLACE VIEW d.v ON CLUSTER '{c}' AS X"),
        ("DROP TABLE IF EXISTS `a b`", "DROP TABLE IF EXISTS `a b` ON CLUSTER '{c}'"),
        ("ALTER TABLE a ADD X", "ALTER TABLE a ON CLUSTER '{c}' ADD X"),
        (
            "ALTER TABLE a X ReplicatedMergeTree",
            "ALTER TABLE a ON CLUSTER '{c}' X ReplicatedMergeTree",
        ),
    ],
)
def test_every_form_is_sent_to_the_cluster(statement: str, expected: str) -> None:
    assert for_cluster(statement, "{c}") == expected


@pytest.mark.parametrize("cluster", ["", "a'b", "a b", "a;b", "1a"])
def test_cluster_name_that_could_break_out_is_refused(cluster: str) -> None:
    with pytest.raises(MigrationError, match="RENTROLL_CLICKHOUSE_CLUSTER"):
        for_cluster("DROP TABLE IF EXISTS a", cluster)


def test_statement_without_a_cluster_form_is_refused() -> None:
    with pytest.raises(MigrationError, match="no rule puts this on a cluster"):
        for_cluster("OPTIMIZE TABLE a", "main")


def test_every_migration_of_the_package_can_go_on_a_cluster() -> None:
    for file in read_migrations():
        for statement in file.statements:
            text = for_cluster(statement, "main")
            assert text.count("ON CLUSTER 'main'") == 1
            assert text.count("ENGINE = ") == text.count("ENGINE = Replicated")


def test_new_files_have_no_history_to_hold_to() -> None:
    check_history(read_migrations(), [])
