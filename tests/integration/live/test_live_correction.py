"""Hour close corrects live spend: what it published is what is shown, and holds of the hour end."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, insert, select

from infra.clickhouse.client import Client
from infra.store.live_spend import Stretch, add_stretches, read_windows, spent_by_month
from infra.store.tables import admission_holds
from schemas.billing import HourlyUsage
from schemas.estimates import ESTIMATED_METERS, Estimator
from schemas.spend import MEASURES, MonthKey, PartialSums, WindowKey
from streams.live_correction import Corrector
from tests.support.events import HOUR_MS, OCTOBER_MS
from tests.support.published_usage import empty_ledger, ledger, publish_run
from tests.support.spend_examples import SPEND_BOOK, TOKEN_E9

HOUR = datetime(2026, 10, 1, tzinfo=UTC)
NOW_MS = OCTOBER_MS + 5 * HOUR_MS
ESTIMATOR = Estimator(SPEND_BOOK)
REQUEST_E9 = 100 * TOKEN_E9["input"] + 20 * TOKEN_E9["output"]


@pytest.fixture(scope="module")
def shared_ledger(clickhouse_url: str) -> Iterator[Client]:
    with ledger(clickhouse_url, "live_correction") as client:
        yield client


@pytest.fixture
def corrector(shared_ledger: Client, priced_store: Engine) -> Corrector:
    empty_ledger(shared_ledger)
    return Corrector(priced_store, shared_ledger, kept_days=62)


def row(requests: int, tenant: str = "acme", hour: datetime = HOUR) -> HourlyUsage:
    """So many requests of 100 tokens in and 20 out."""
    used = {"input_uncached_tokens": 100 * requests, "output_text_tokens": 20 * requests}
    return HourlyUsage(
        hour=hour,
        run_id="",
        tenant=tenant,
        project="search",
        api_key="key-1",
        model="llama",
        adapter="",
        service_tier="standard",
        gpu_type="H100",
        region="eu-1",
        outcome="stop",
        requests=requests,
        quantities=dict.fromkeys(ESTIMATED_METERS, 0) | used,
    )


def live(store: Engine, requests: int, start: int, *, tenant: str = "acme") -> None:
    """What live spend sums of so many of the same requests."""
    used = dict.fromkeys(MEASURES, 0) | {
        "requests": requests,
        "input_uncached_tokens": 100 * requests,
        "output_text_tokens": 20 * requests,
        "amount_e9": REQUEST_E9 * requests,
    }
    key = WindowKey(tenant, "hour", OCTOBER_MS, "search", "key-1")
    month = MonthKey(tenant, OCTOBER_MS)
    sums = PartialSums({key: list(used.values())}, {month: REQUEST_E9 * requests})
    add_stretches(store, [Stretch("usage.v1", 0, start, start + requests, sums)])


def shown(store: Engine, tenant: str = "acme") -> tuple[int, int, int]:
    """Requests and amount of the hour, and the amount of the month."""
    found = read_windows(store, tenant, "hour", OCTOBER_MS, OCTOBER_MS + HOUR_MS).values()
    with store.connect() as connection:
        month = spent_by_month(connection, [tenant]).get(MonthKey(tenant, OCTOBER_MS), 0)
    return (
        sum(one["requests"] for one in found),
        sum(one["amount_e9"] for one in found),
        month,
    )


def test_hour_shows_what_was_published_and_so_does_its_month(
    corrector: Corrector, priced_store: Engine, shared_ledger: Client
) -> None:
    live(priced_store, 12, 0)
    publish_run(shared_ledger, priced_store, HOUR, [row(10), row(3, "globex")], offset=12)
    assert corrector.correct(ESTIMATOR, NOW_MS) == 1
    assert shown(priced_store) == (10, 10 * REQUEST_E9, 10 * REQUEST_E9)
    assert shown(priced_store, "globex") == (3, 3 * REQUEST_E9, 3 * REQUEST_E9)
    assert corrector.correct(ESTIMATOR, NOW_MS) == 0


def test_hour_is_not_corrected_before_all_that_its_run_was_made_from_is_summed(
    corrector: Corrector, priced_store: Engine, shared_ledger: Client
) -> None:
    live(priced_store, 5, 0)
    publish_run(shared_ledger, priced_store, HOUR, [row(10)], offset=10)
    assert corrector.correct(ESTIMATOR, NOW_MS) == 0
    live(priced_store, 5, 5)
    assert corrector.correct(ESTIMATOR, NOW_MS) == 1
    assert shown(priced_store) == (10, 10 * REQUEST_E9, 10 * REQUEST_E9)


def test_late_event_is_added_at_once_and_the_next_run_replaces_the_correction(
    corrector: Corrector, priced_store: Engine, shared_ledger: Client
) -> None:
    live(priced_store, 12, 0)
    publish_run(shared_ledger, priced_store, HOUR, [row(10)], offset=12)
    corrector.correct(ESTIMATOR, NOW_MS)
    live(priced_store, 1, 12)
    assert shown(priced_store) == (11, 11 * REQUEST_E9, 11 * REQUEST_E9)
    publish_run(shared_ledger, priced_store, HOUR, [row(11)], offset=13)
    assert corrector.correct(ESTIMATOR, NOW_MS) == 1
    assert shown(priced_store) == (11, 11 * REQUEST_E9, 11 * REQUEST_E9)


def test_hours_that_the_log_has_no_more_are_taken_from_what_was_published(
    corrector: Corrector, priced_store: Engine, shared_ledger: Client
) -> None:
    publish_run(shared_ledger, priced_store, HOUR, [row(7)], offset=0)
    later = HOUR + timedelta(hours=1)
    publish_run(shared_ledger, priced_store, later, [row(2, hour=later)], offset=0)
    assert corrector.correct(ESTIMATOR, NOW_MS) == 2
    assert shown(priced_store) == (7, 7 * REQUEST_E9, 9 * REQUEST_E9)


def test_holds_of_a_published_hour_end_and_those_of_others_stay(
    corrector: Corrector, priced_store: Engine, shared_ledger: Client
) -> None:
    holds = [
        {"request": name, "tenant": "acme", "hour_ms": hour_ms, "month_ms": OCTOBER_MS}
        | {"amount_e9": 1}
        for name, hour_ms in (("over", OCTOBER_MS), ("open", OCTOBER_MS + HOUR_MS))
    ]
    with priced_store.begin() as connection:
        connection.execute(insert(admission_holds), holds)
    publish_run(shared_ledger, priced_store, HOUR, [row(1)], offset=0)
    corrector.correct(ESTIMATOR, NOW_MS)
    with priced_store.connect() as connection:
        left = connection.execute(select(admission_holds.c.request)).scalars().all()
    assert left == ["open"]
