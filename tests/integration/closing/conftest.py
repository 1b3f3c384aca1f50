"""A ledger of its own for each test."""

import itertools
import os
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from infra.clickhouse.client import Client, connect
from infra.clickhouse.migrate import migrate
from tests.support.closing import Books
from tests.support.command_line import Rentroll
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


@pytest.fixture
def rentroll(clickhouse_url: str, ledger: Client, store: Engine) -> Rentroll:
    return Rentroll(
        {
            **os.environ,
            "RENTROLL_CLICKHOUSE_URL": clickhouse_url,
            "RENTROLL_CLICKHOUSE_DATABASE": str(ledger.database),
            "RENTROLL_STORE_URL": store.url.render_as_string(hide_password=False),
            "RENTROLL_KAFKA_BOOTSTRAP": "127.0.0.1:1",
            "RENTROLL_STRIPE_API_KEY": "sk_test_unused",
            "COLUMNS": "140",
        }
    )
