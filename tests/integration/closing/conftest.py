"""A ledger of its own for each test."""

import itertools
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from infra.clickhouse.client import Client, connect
from infra.clickhouse.migrate import migrate
from tests.support.closing import Books
from tests.support.ledger import LedgerWriter

_numbers = itertools.count(1)


@pytest.fixture
def ledger(clickhouse_url: str) -> Iterator[Client]:
    """A migrated, empty ledger."""
    database = f"close_{next(_numbers)}"
    migrate(clickhouse_url, database)
    client = connect(clickhouse_url, database)
    yield client
    client.command(f"DROP DATABASE {database}")
    client.close()


@pytest.fixture
def books(ledger: Client, store: Engine) -> Books:
    return Books(ledger, store, LedgerWriter(ledger))
