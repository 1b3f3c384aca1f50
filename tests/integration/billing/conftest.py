"""A stand-in whose clock and faults belong to one test module, and a gateway that does not wait."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from billing.stripe_gateway import LOCAL, StripeGateway
from infra.store.engine import open_store
from tests.support.servers.stripe_fake import StandIn, stand_in


@pytest.fixture(scope="module")
def module_stripe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    with stand_in(tmp_path_factory.mktemp("stripe")) as server:
        yield server


@pytest.fixture
def stripe(module_stripe: StandIn) -> StandIn:
    """The module's stand-in without faults; use tenants of your own."""
    module_stripe.clear_faults()
    return module_stripe


@pytest.fixture
def gateway(stripe: StandIn) -> Iterator[StripeGateway]:
    opened = StripeGateway("sk_test_rentroll", stripe.base, limits=LOCAL, sleep=lambda _s: None)
    yield opened
    opened.close()


@pytest.fixture
def sqlite(tmp_path: Path, migrated_sqlite_file: Path) -> Iterator[Engine]:
    """A migrated, empty store on SQLite alone, where the database makes no difference."""
    file = tmp_path / "only.db"
    shutil.copy(migrated_sqlite_file, file)
    opened = open_store(f"sqlite:///{file}")
    yield opened
    opened.dispose()
