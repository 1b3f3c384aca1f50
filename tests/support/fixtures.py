"""Fixtures with real servers: started once per run, shared; each test makes its own topics."""

from collections.abc import Iterator

import pytest

from tests.support.servers.clickhouse import clickhouse
from tests.support.servers.kafka import kafka


@pytest.fixture(scope="session")
def kafka_bootstrap() -> Iterator[str]:
    """`host:port` of a real broker; make topics with names of your own on it."""
    with kafka() as bootstrap:
        yield bootstrap


@pytest.fixture(scope="session")
def clickhouse_url() -> Iterator[str]:
    """`http://…` of a real ClickHouse; make a database of your own on it."""
    with clickhouse() as url:
        yield url
