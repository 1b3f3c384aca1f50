"""A ledger, a store and an S3 server for tests of the archive and of replays."""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from infra.clickhouse.client import Client, connect
from infra.clickhouse.migrate import migrate
from infra.store.engine import open_store
from tests.support.closing import Books
from tests.support.ledger import LedgerWriter
from tests.support.servers.s3 import S3Server, s3_server

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A server that speaks S3; make buckets of your own on it."""
    with s3_server() as server:
        yield server


@pytest.fixture
def store_url(tmp_path: Path, migrated_sqlite_file: Path) -> str:
    """A migrated, empty store; what replays read of it is the same on every database."""
    path = tmp_path / "store.db"
    shutil.copy(migrated_sqlite_file, path)
    return f"sqlite:///{path}"


@pytest.fixture
def store(store_url: str) -> Iterator[Engine]:
    engine = open_store(store_url)
    yield engine
    engine.dispose()


@pytest.fixture
def ledger(clickhouse_url: str) -> Iterator[Client]:
    """A migrated, empty ledger."""
    database = f"replay_{next(_numbers)}"
    migrate(clickhouse_url, database)
    client = connect(clickhouse_url, database)
    yield client
    client.command(f"DROP DATABASE IF EXISTS {database}")
    client.close()


@pytest.fixture
def books(ledger: Client, store: Engine) -> Books:
    return Books(ledger, store, LedgerWriter(ledger))
