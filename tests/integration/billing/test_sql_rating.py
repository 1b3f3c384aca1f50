"""The second rating, in the ledger's SQL: the same to the last digit, whatever the prices."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from billing.rating import rate
from billing.sql_rating import rate_in_ledger
from infra.clickhouse.client import Client
from schemas.billing import HourlyUsage
from schemas.errors import ConservationError
from schemas.periods import Period
from schemas.prices import PriceBook, Selector
from tests.support.billing_examples import (
    OCTOBER,
    book_of,
    graduated_price,
    hourly_price,
    package_price,
    unit_price,
    usage,
    volume_price,
)
from tests.support.priced_books import any_books, rows
from tests.support.published_usage import empty_ledger, publish_run
from tests.support.published_usage import ledger as ledger_of

pytestmark = pytest.mark.integration
INPUT, OUTPUT = "input_uncached_tokens", "output_text_tokens"
HUGE = 2**61


@pytest.fixture(scope="module")
def ledger(clickhouse_url: str) -> Iterator[Client]:
    with ledger_of(clickhouse_url, "test_sql_rating") as client:
        yield client


def publish(ledger: Client, store: Engine, used: list[HourlyUsage]) -> None:
    empty_ledger(ledger)
    by_hour: dict[object, list[HourlyUsage]] = {}
    for row in used:
        by_hour.setdefault(row.hour, []).append(row)
    for its_rows in by_hour.values():
        publish_run(ledger, store, its_rows[0].hour, merged(its_rows))


def merged(used: list[HourlyUsage]) -> list[HourlyUsage]:
    """Rows of one hour as a run holds them: one of each key."""
    sums: dict[tuple[str, ...], HourlyUsage] = {}
    for row in used:
        key = (row.tenant, row.project, row.model, row.service_tier, row.outcome)
        before = sums.get(key)
        if before is not None:
            quantities = {
                meter: before.quantities[meter] + amount for meter, amount in row.quantities.items()
            }
            row = usage(  # noqa: PLW2901 - the row and what was before it, as one
                (row.hour - OCTOBER.start) // timedelta(hours=1),
                tenant=row.tenant,
                project=row.project,
                model=row.model,
                service_tier=row.service_tier,
                outcome=row.outcome,
                requests=before.requests + row.requests,
                quantities=quantities,
            )
        sums[key] = row
    return list(sums.values())


def agree(ledger: Client, used: list[HourlyUsage], book: PriceBook) -> None:
    rating = rate(used, book, OCTOBER)
    second = rate_in_ledger(ledger, book, OCTOBER)
    for tenant in {row.tenant for row in used}:
        second.check(rating, tenant)
    assert set(second.tenants) <= {row.tenant for row in used}


@given(used=st.lists(rows, max_size=8), book=any_books())
@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_both_ratings_agree_whatever_the_usage_and_the_book(
    ledger: Client, sqlite: Engine, used: list[HourlyUsage], book: PriceBook
) -> None:
    publish(ledger, sqlite, used)
    agree(ledger, used, book)


def test_both_ratings_agree_on_every_kind_at_its_edges(ledger: Client, sqlite: Engine) -> None:
    steps = [(1_000, "0.9"), (2_000, "0.000000000001"), (None, "99999999999999")]
    book = book_of(
        graduated_price("graduated", steps, select=Selector(model="m1")),
        volume_price("volume", steps, select=Selector(model="m2")),
        package_price("package", "7", 1_000, select=Selector(model="m3")),
        hourly_price("hourly", ["1", "2", "3"], select=Selector(model="m4")),
        unit_price("output", "99999999999999.999999999999", meter=OUTPUT),
    )
    used = [
        usage(hour, tenant=f"t{quantity}", model=model, quantities={INPUT: quantity, OUTPUT: HUGE})
        for quantity in (0, 1, 999, 1_000, 1_001, 2_000, 2_001, HUGE)
        for hour in (0, 2)
        for model in ("m1", "m2", "m3", "m4")
    ]
    publish(ledger, sqlite, used)
    agree(ledger, used, book)


@pytest.mark.parametrize(
    ("planted", "named"),
    [
        ({"quantities": {INPUT: 1_000_001}}, "1000001 units"),
        ({"outcome": "error"}, "nothing by the first"),
        ({"model": "unpriced"}, "under no price is 1000000 units"),
    ],
)
def test_planted_difference_is_named(
    ledger: Client, sqlite: Engine, planted: dict[str, object], named: str
) -> None:
    book = book_of(unit_price("cheap", "1", select=Selector(model="llama-3.1-8b")))
    row = usage(5, quantities={INPUT: 1_000_000})
    publish(ledger, sqlite, [row])
    agree(ledger, [row], book)
    other = usage(5, **({"quantities": {INPUT: 1_000_000}} | planted))
    with pytest.raises(ConservationError, match=named):
        rate_in_ledger(ledger, book, OCTOBER).check(rate([other], book, OCTOBER), "acme")


def test_one_tenant_is_rated_alone(ledger: Client, sqlite: Engine) -> None:
    book = book_of(unit_price("p", "1"))
    used = [usage(1, tenant=name, quantities={INPUT: 5}) for name in ("acme", "globex")]
    publish(ledger, sqlite, used)
    assert set(rate_in_ledger(ledger, book, OCTOBER, tenant="globex").tenants) == {"globex"}
    hour = Period(OCTOBER.start, OCTOBER.start + timedelta(hours=1), "hour")
    assert rate_in_ledger(ledger, book, hour).tenants == {}
