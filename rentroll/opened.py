"""The servers that commands of billing work on: found, opened for one command, and closed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from infra.clickhouse.client import Client
    from infra.endpoints import Endpoints


def endpoints_now() -> "Endpoints":
    """From the settings, or of the stack that runs here."""
    from infra.endpoints import resolve
    from infra.settings import InfraSettings

    return resolve(InfraSettings())


@contextmanager
def store_opened(endpoints: "Endpoints") -> Iterator["Engine"]:
    """The billing store, until the block ends."""
    from infra.store.engine import open_store

    store = open_store(endpoints.store_url)
    try:
        yield store
    finally:
        store.dispose()


@contextmanager
def ledger_opened(endpoints: "Endpoints") -> Iterator["Client"]:
    """The ledger, until the block ends."""
    from infra.clickhouse.client import connect

    client = connect(endpoints.clickhouse_url, endpoints.clickhouse_database)
    try:
        yield client
    finally:
        client.close()
