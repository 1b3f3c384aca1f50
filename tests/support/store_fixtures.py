"""Fixtures of the billing store: `store` is migrated and empty, on SQLite and on PostgreSQL."""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, make_url, text

from infra.store.engine import open_store
from infra.store.migrate import upgrade
from infra.store.tables import metadata
from tests.support.servers.postgres import postgres

DATABASES = ("sqlite", "postgresql")
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server, by the URL of a database from which others can be created."""
    with postgres() as url:
        yield url


@pytest.fixture(scope="session")
def new_postgres_database(postgres_url: str) -> Iterator[Callable[[], str]]:
    """Creates a database and returns its URL; all are dropped when the tests end."""
    server = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    created: list[str] = []

    def create() -> str:
        name = f"rentroll_{os.getpid()}_{next(_numbers)}"
        with server.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        created.append(name)
        return make_url(postgres_url).set(database=name).render_as_string(hide_password=False)

    yield create
    with server.connect() as connection:
        for name in created:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@pytest.fixture(scope="session")
def migrated_sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty store to copy."""
    path = tmp_path_factory.mktemp("store") / "migrated.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_postgres_database(new_postgres_database: Callable[[], str]) -> str:
    """A migrated store that `store_url` empties between tests."""
    url = new_postgres_database()
    upgrade(url)
    return url


@pytest.fixture(params=DATABASES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a billing store that is migrated and empty."""
    if request.param == "sqlite":
        path = tmp_path / "store.db"
        shutil.copy(request.getfixturevalue("migrated_sqlite_file"), path)
        return f"sqlite:///{path}"
    url: str = request.getfixturevalue("migrated_postgres_database")
    _empty_postgres(url)
    return url


@pytest.fixture
def store(store_url: str) -> Iterator[Engine]:
    """A billing store that is migrated and empty."""
    engine = open_store(store_url)
    yield engine
    engine.dispose()


@pytest.fixture(params=DATABASES)
def blank_store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database in which nothing was ever created."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    create: Callable[[], str] = request.getfixturevalue("new_postgres_database")
    return create()


def _empty_postgres(url: str) -> None:
    engine = create_engine(url)
    tables = ", ".join(table.name for table in metadata.sorted_tables)
    with engine.begin() as connection:
        # As a replica the triggers sleep that refuse to empty append-only tables.
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text(f"TRUNCATE {tables}"))
    engine.dispose()
