"""Months of the ledger go when their time is over, and never while somebody needs them."""

import pytest
from sqlalchemy import Engine, insert

from infra.store.decisions import decisions_after
from infra.store.tables import invoices, tenants
from schemas.errors import ContractError
from schemas.periods import Period, parse_period
from streams.completeness_look import look_at
from streams.retention import EVENT_TABLES, Month, drop_months, plan_retention
from streams.settings import StreamSettings
from tests.support.closing import Books, states
from tests.support.events import HOUR_MS, OCTOBER_MS, HostScript, one_busy_hour

OCTOBER, NOVEMBER = parse_period("2026-10"), parse_period("2026-11")
NOVEMBER_MS = OCTOBER_MS + 31 * 24 * HOUR_MS
DAY_NS = 24 * HOUR_MS * 1_000_000
SHORT = StreamSettings(
    retention_events_days=60, retention_rollups_days=3_660, retention_correctable_days=60
)


def plan(books: Books) -> dict[tuple[str, bool], Month]:
    """Months by name and whether they are of events."""
    found = plan_retention(books.client, books.store, clock=books.clock, settings=SHORT)
    return {(one.period.name, one.tables == EVENT_TABLES): one for one in found}


def invoice(store: Engine, state: str) -> None:
    with store.begin() as connection:
        connection.execute(
            insert(tenants).values(
                tenant="acme", name="A", email="a@b.c", currency="USD", net_days=0, created_at_ms=1
            )
        )
        connection.execute(
            insert(invoices).values(
                id="i-1",
                tenant="acme",
                period="2026-10",
                revision=1,
                currency="USD",
                state=state,
                total_minor=1,
                body="{}",
                planned_at_ms=1,
                hold_reason="",
                adopted=0,
                lease_until_ms=0,
            )
        )


def closed_october(books: Books, *, days_later: int = 60) -> None:
    host, later = one_busy_hour("a"), one_busy_hour("b", opened_ms=NOVEMBER_MS)
    books.register(host, later)
    books.writer.write([*host.records, *later.records])
    assert set(states(books.close(period=OCTOBER))) == {"published"}
    books.clock.advance(days_later * DAY_NS)


def test_month_that_is_over_and_settled_is_dropped_and_its_invoice_stays_provable(
    books: Books,
) -> None:
    closed_october(books)
    invoice(books.store, "issued")
    before = books.view()
    month = plan(books)["2026-10", True]
    assert (month.is_over, month.refusals, month.rows) == (True, (), 6)
    assert not plan(books)["2026-11", True].is_over
    assert not plan(books)["2026-10", False].is_over

    drop_months(books.client, books.store, [month], decided_by="ann", clock=books.clock)

    assert ("2026-10", True) not in plan(books)
    assert books.client.query("SELECT count() FROM usage_events").first_row == (5,)
    assert books.view() == before
    assert [one.kind for one in decisions_after(books.store, 0)] == ["drop_months"]
    for look in (books.close, lambda period: look_at_(books, period)):
        with pytest.raises(ContractError, match="begins before 2026-11; the events of that time"):
            look(period=OCTOBER)
    assert set(states(books.close(period=NOVEMBER))) == {"published"}


def look_at_(books: Books, period: Period) -> None:
    look_at(books.client, books.store, period, clock=books.clock)


@pytest.mark.parametrize("state", ["", "planned", "held"])
def test_month_that_is_not_invoiced_to_the_end_stays(books: Books, state: str) -> None:
    closed_october(books)
    if state:
        invoice(books.store, state)
    month = plan(books)["2026-10", True]
    assert month.refusals == (f"not invoiced to the end: acme ({state or 'no invoice'})",)
    with pytest.raises(ContractError, match=r"2026-10 of usage_events.*not invoiced to the end"):
        drop_months(books.client, books.store, [month], decided_by="ann", clock=books.clock)
    assert books.client.query("SELECT count() FROM usage_events").first_row == (10,)
    assert decisions_after(books.store, 0) == []


def test_month_with_an_hour_that_is_not_published_stays(books: Books) -> None:
    host = one_busy_hour()
    books.register(host)
    books.writer.write(one for one in host.records if one.event.sequence != 3)
    books.close(hours=1)
    books.clock.advance(60 * DAY_NS)
    refusals = plan(books)["2026-10", True].refusals
    assert "sequence 3 is missing" in refusals[0]
    assert "never decided" in refusals[1]


def test_month_in_which_a_source_began_that_tells_of_a_kept_month_stays(books: Books) -> None:
    host = HostScript("a", opened_ms=NOVEMBER_MS - HOUR_MS)
    host.interval(NOVEMBER_MS - HOUR_MS // 2)
    host.request(NOVEMBER_MS - HOUR_MS // 2)
    host.interval(NOVEMBER_MS)
    host.request(NOVEMBER_MS + HOUR_MS // 2)
    host.interval(NOVEMBER_MS + HOUR_MS)
    host.closed(NOVEMBER_MS + HOUR_MS)
    books.register(host)
    books.writer.write(host.records)
    books.close(period=OCTOBER)
    books.clock.advance(60 * DAY_NS)
    invoice(books.store, "paid")

    by_source, by_engine = plan(books)["2026-10", True].refusals

    assert by_source == f"a month that is kept is proven from here on, by source {host.source}"
    assert by_engine == f"a month that is kept is proven from here on, by engine {host.engine}"


def test_month_stays_before_its_time(books: Books) -> None:
    closed_october(books, days_later=1)
    invoice(books.store, "paid")
    month = plan(books)["2026-10", True]
    assert not month.is_over
    with pytest.raises(ContractError, match="its time is not over"):
        drop_months(books.client, books.store, [month], decided_by="ann", clock=books.clock)
