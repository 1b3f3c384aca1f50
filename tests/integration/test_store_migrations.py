"""The billing store's migrations: the same schema as the declarations, on both databases."""

import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from infra.store.engine import open_store
from infra.store.migrate import current, downgrade, pending, upgrade
from infra.store.tables import metadata
from schemas.errors import MigrationError, ServerError

NEWEST = "0008"
MIGRATIONS = Path(__file__).parents[2] / "infra/store/migrations"


def test_migrated_store_is_the_declared_one(store: Engine) -> None:
    with store.connect() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []


def test_migrated_constraints_have_the_declared_names(store: Engine) -> None:
    seen = inspect(store)
    for table in metadata.sorted_tables:
        names = {constraint["name"] for constraint in seen.get_check_constraints(table.name)}
        names |= {constraint["name"] for constraint in seen.get_unique_constraints(table.name)}
        names |= {constraint["name"] for constraint in seen.get_foreign_keys(table.name)}
        names |= {seen.get_pk_constraint(table.name)["name"]}
        assert names == {str(constraint.name) for constraint in table.constraints}, table.name


def test_upgrade_of_an_empty_database_goes_to_the_newest_revision(blank_store_url: str) -> None:
    assert current(blank_store_url) is None
    steps = pending(blank_store_url)
    upgrade(blank_store_url)
    assert steps[-1].startswith(f"{current(blank_store_url)}: ")
    assert pending(blank_store_url) == []


def test_upgrade_twice_changes_nothing(blank_store_url: str) -> None:
    upgrade(blank_store_url)
    upgrade(blank_store_url)
    assert current(blank_store_url) == NEWEST


def test_downgrade_leaves_nothing_and_can_be_undone(blank_store_url: str) -> None:
    upgrade(blank_store_url)
    downgrade(blank_store_url, "base")
    store = open_store(blank_store_url)
    assert inspect(store).get_table_names() == ["alembic_version"]
    store.dispose()
    upgrade(blank_store_url)
    assert current(blank_store_url) == NEWEST


def test_two_processes_upgrade_at_once(blank_store_url: str) -> None:
    program = "import sys; from infra.store.migrate import upgrade; upgrade(sys.argv[1])"
    command = [sys.executable, "-c", program, blank_store_url]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [run.communicate(timeout=60)[1] for run in runs] == ["", ""]
    assert [run.returncode for run in runs] == [0, 0]
    assert current(blank_store_url) == NEWEST


def test_upgrade_works_from_any_folder_and_says_nothing(
    blank_store_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    upgrade(blank_store_url)
    assert capfd.readouterr() == ("", "")


def test_unknown_revision_in_the_store_is_refused(store_url: str) -> None:
    with pytest.raises(MigrationError, match="9999"):
        downgrade(store_url, "9999")


def test_store_of_a_newer_version_is_refused(store: Engine, store_url: str) -> None:
    with store.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    try:
        for step in (upgrade, pending):
            with pytest.raises(MigrationError, match="9999"):
                step(store_url)
    finally:
        with store.begin() as connection:
            connection.execute(text(f"UPDATE alembic_version SET version_num = '{NEWEST}'"))


def test_look_at_a_missing_sqlite_file_does_not_create_it(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    assert len(pending(f"sqlite:///{path}")) == len(list(MIGRATIONS.glob("0*.py")))
    assert not path.exists()


def test_unreachable_store_is_named_without_its_password() -> None:
    url = "postgresql+psycopg://someone:secret@127.0.0.1:1/none"
    with pytest.raises(ServerError, match=r"someone:\*\*\*@127\.0\.0\.1:1/none"):
        upgrade(url)
