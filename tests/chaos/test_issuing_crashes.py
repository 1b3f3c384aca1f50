"""kill -9 at every point of issuing, then again: one live invoice, exact, mailed once (law 9)."""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from billing.stripe_gateway import StripeGateway
from infra.store.engine import open_store
from tests.support.forked_runs import API_KEY, ForkedRuns, forked_runs
from tests.support.one_invoice import assert_issued_once
from tests.support.planned_invoices import make_invoice, plan
from tests.support.servers.stripe_fake import StandIn, stand_in

POINTS = 25
"""Hooks that one invoice passes: four a write, one a state; the last kill finds it issued."""
KILLED = -9
DAY_AND_AN_HOUR_S = 25 * 3600
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def process() -> Iterator[ForkedRuns]:
    with forked_runs() as started:
        yield started


@pytest.fixture(scope="module")
def stripe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    with stand_in(tmp_path_factory.mktemp("stripe")) as server:
        yield server


@pytest.mark.parametrize("gap_s", [0, DAY_AND_AN_HOUR_S], ids=["at once", "keys forgotten"])
def test_killed_at_every_point_on_sqlite(
    tmp_path: Path,
    migrated_sqlite_file: Path,
    process: ForkedRuns,
    tmp_path_factory: pytest.TempPathFactory,
    gap_s: int,
) -> None:
    with stand_in(tmp_path_factory.mktemp("stripe")) as stripe:
        later_s = 0
        for point in range(POINTS):
            path = tmp_path / f"{point}.db"
            shutil.copy(migrated_sqlite_file, path)
            url = f"sqlite:///{path}"
            later_s = killed_and_recovered(process, stripe, url, point, gap_s, later_s)


def test_killed_at_every_second_point_on_postgresql(
    migrated_postgres_database: str, process: ForkedRuns, stripe: StandIn
) -> None:
    for point in range(0, POINTS, 2):
        killed_and_recovered(process, stripe, migrated_postgres_database, point, 0, 0)


def killed_and_recovered(
    process: ForkedRuns, stripe: StandIn, url: str, point: int, gap_s: int, later_s: int
) -> int:
    store = open_store(url)
    gateway = StripeGateway(API_KEY, stripe.base)
    invoice = plan(store, make_invoice(f"tenant-{next(_numbers)}"))
    assert process.run(url, stripe.base, die_at=point, later_s=later_s) == KILLED
    if gap_s:
        stripe.advance(gap_s)
    assert process.run(url, stripe.base, later_s=later_s + gap_s) == 0
    try:
        assert_issued_once(store, gateway, stripe.base, invoice)
    except AssertionError as error:
        error.add_note(f"killed at point {point}, {gap_s} s between the runs")
        raise
    finally:
        gateway.close()
        store.dispose()
    return later_s + gap_s


def test_there_is_no_point_beyond_the_last(
    tmp_path: Path, migrated_sqlite_file: Path, process: ForkedRuns, stripe: StandIn
) -> None:
    path = tmp_path / "store.db"
    shutil.copy(migrated_sqlite_file, path)
    url = f"sqlite:///{path}"
    store = open_store(url)
    plan(store, make_invoice(f"tenant-{next(_numbers)}"))
    store.dispose()
    assert process.run(url, stripe.base, die_at=POINTS) == 0


@pytest.mark.parametrize("point", [2, 6, 11, 17, 22], ids=lambda point: f"point {point}")
def test_killed_twice_while_stripe_loses_answers(
    tmp_path: Path,
    migrated_sqlite_file: Path,
    process: ForkedRuns,
    stripe: StandIn,
    point: int,
) -> None:
    path = tmp_path / "store.db"
    shutil.copy(migrated_sqlite_file, path)
    url = f"sqlite:///{path}"
    store = open_store(url)
    gateway = StripeGateway(API_KEY, stripe.base)
    invoice = plan(store, make_invoice(f"tenant-{next(_numbers)}"))
    stripe.plant("POST", "/v1/", "drop_after", times=2)
    stripe.plant("POST", "/v1/", "error_stored", times=1)
    assert process.run(url, stripe.base, die_at=point) == KILLED
    assert process.run(url, stripe.base, die_at=1) == KILLED
    stripe.kill_and_restart()
    assert process.run(url, stripe.base) == 0
    assert_issued_once(store, gateway, stripe.base, invoice)
    gateway.close()
    store.dispose()
