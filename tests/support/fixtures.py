"""Fixtures with real servers: started once per run, shared; each test makes its own topics."""

from collections.abc import Iterator

import pytest

from tests.support.servers.clickhouse import clickhouse
from tests.support.servers.kafka import kafka
from tests.support.servers.stripe_fake import stripe_fake


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


@pytest.fixture(scope="session")
def stripe_base() -> Iterator[str]:
    """`http://…` of a stand-in for Stripe; make customers of your own on it."""
    with stripe_fake() as base:
        yield base
