"""Planning a period on real servers: complete or refused, one invoice each, twice the same."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, insert, select, update

from billing.planning import PlanResult, plan_period
from billing.price_book_file import EXAMPLE_PRICE_BOOK, read_price_book
from billing.settings import BillingSettings
from billing.usage_reader import read_usage
from infra.clickhouse.client import Client
from infra.store.hours import record_hour
from infra.store.tables import invoices, periods, stripe_calls, tenants
from schemas.billing import HourlyUsage, Invoice
from schemas.clock import FixedClock
from schemas.errors import ConservationError, InvoiceHeldError, PeriodNotReadyError
from schemas.prices import PriceBook
from tests.support.billing_examples import OCTOBER, book_of, unit_price, usage
from tests.support.published_usage import empty_ledger, publish_period, publish_run
from tests.support.published_usage import ledger as ledger_of

INPUT = "input_uncached_tokens"
BOOK = read_price_book(EXAMPLE_PRICE_BOOK).book
NOW_MS = 1_793_500_000_000
CLOCK = FixedClock(NOW_MS * 1_000_000)
SETTINGS = BillingSettings(net_days=14, new_tenant_email="new@example.invalid", usage_block_rows=2)


@pytest.fixture(scope="module")
def shared_ledger(clickhouse_url: str) -> Iterator[Client]:
    with ledger_of(clickhouse_url, "test_planning") as client:
        yield client


@pytest.fixture
def ledger(shared_ledger: Client) -> Client:
    empty_ledger(shared_ledger)
    return shared_ledger


def plan(ledger: Client, store: Engine, book: PriceBook = BOOK) -> PlanResult:
    return plan_period(ledger, store, OCTOBER, book, clock=CLOCK, settings=SETTINGS)


def rows(store: Engine) -> list[Any]:
    with store.connect() as connection:
        return list(connection.execute(select(invoices).order_by(invoices.c.tenant)))


def set_invoice(store: Engine, **values: object) -> None:
    with store.begin() as connection:
        connection.execute(update(invoices).values(values))


TWO_TENANTS = [
    usage(0, requests=3, quantities={INPUT: 1_000_000, "output_text_tokens": 500_000}),
    usage(5, tenant="globex", service_tier="priority", quantities={INPUT: 2_000_000, "gpu_ns": 7}),
    usage(743, outcome="error", requests=2, quantities={INPUT: 9, "gpu_ns": 5}),
]
MORE = usage(5, quantities={INPUT: 10_000_000})


def test_every_tenant_with_usage_gets_one_planned_invoice(ledger: Client, store: Engine) -> None:
    publish_period(ledger, store, OCTOBER, TWO_TENANTS)
    result = plan(ledger, store)
    acme, globex = rows(store)
    # 1 M input at 0.06 + 0.5 M output at 0.15, and 2 M input at twice 0.06.
    assert (acme.tenant, acme.state, acme.total_minor) == ("acme", "planned", 14)
    assert (globex.tenant, globex.state, globex.total_minor) == ("globex", "planned", 24)
    invoice = Invoice.model_validate_json(acme.body)
    assert (invoice.requests, invoice.gpu_ns) == (5, 5)
    assert [run.hour for run in invoice.runs] == [
        "2026-10-01T00:00:00.000Z",
        "2026-10-31T23:00:00.000Z",
    ]
    assert invoice.offsets == {"usage.v1/0": 1}
    assert [planned.invoice.id for planned in result.invoices] == [acme.id, globex.id]
    assert {planned.change for planned in result.invoices} == {"new"}


def test_new_tenants_are_created_on_the_terms_of_the_settings(
    ledger: Client, store: Engine
) -> None:
    publish_period(ledger, store, OCTOBER, TWO_TENANTS)
    plan(ledger, store)
    with store.connect() as connection:
        acme, globex = connection.execute(select(tenants).order_by(tenants.c.tenant))
        states = connection.execute(select(periods.c.state)).scalars().all()
    assert (acme.name, acme.email, acme.currency, acme.net_days, acme.created_at_ms) == (
        "acme",
        "new@example.invalid",
        "USD",
        14,
        NOW_MS,
    )
    assert globex.tenant == "globex"
    assert states == ["rated", "rated"]


def test_planning_again_changes_nothing(ledger: Client, store: Engine) -> None:
    publish_period(ledger, store, OCTOBER, TWO_TENANTS)
    plan(ledger, store)
    before = rows(store)
    again = plan(ledger, store)
    assert rows(store) == before
    assert {planned.change for planned in again.invoices} == {"unchanged"}


def test_total_that_rounds_to_zero_is_planned_all_the_same(ledger: Client, store: Engine) -> None:
    publish_period(ledger, store, OCTOBER, [usage(quantities={INPUT: 1})])
    plan(ledger, store)
    (row,) = rows(store)
    assert (row.state, row.total_minor) == ("planned", 0)


def test_period_without_usage_plans_nothing(ledger: Client, store: Engine) -> None:
    publish_period(ledger, store, OCTOBER, [])
    assert plan(ledger, store).invoices == ()
    assert rows(store) == []


def test_unready_period_is_refused_and_nothing_is_written(ledger: Client, store: Engine) -> None:
    publish_period(ledger, store, OCTOBER, TWO_TENANTS)
    record_hour(store, OCTOBER.start + timedelta(hours=7), "held", "hole in source x", 2)
    with pytest.raises(PeriodNotReadyError, match=r"2026-10-01T07:00Z held: hole in source x"):
        plan(ledger, store)
    assert rows(store) == []


def test_period_of_which_nothing_is_known_is_refused(ledger: Client, store: Engine) -> None:
    with pytest.raises(PeriodNotReadyError, match=r"\(744 hours\) never decided"):
        plan(ledger, store)


def test_usage_without_a_price_holds_that_invoice_and_no_other(
    ledger: Client, store: Engine
) -> None:
    unknown = usage(4, model="llama-9b", requests=6, quantities={INPUT: 1_234})
    publish_period(ledger, store, OCTOBER, [*TWO_TENANTS, unknown])
    result = plan(ledger, store)
    acme, globex = rows(store)
    assert (acme.state, globex.state) == ("held", "planned")
    assert acme.hold_reason == (
        "no price in book example-2026 for 1,234 input tokens in 6 requests of"
        " llama-9b (standard) since 2026-10-01T04:00Z"
    )
    assert [one.quantity for one in result.invoices[0].unpriced] == [1_234]
    with store.connect() as connection:
        states = connection.execute(select(periods.c.state).order_by(periods.c.tenant)).scalars()
        assert list(states) == ["closing", "rated"]


def test_held_invoice_is_planned_once_the_price_is_there(ledger: Client, store: Engine) -> None:
    publish_period(ledger, store, OCTOBER, [usage(quantities={INPUT: 1_000_000})])
    without_a_price = book_of(unit_price("p", "1", meter="requests"), billed_meters=(INPUT,))
    plan(ledger, store, without_a_price)
    (held,) = rows(store)
    result = plan(ledger, store)
    (planned,) = rows(store)
    assert (held.state, planned.state, planned.hold_reason) == ("held", "planned", "")
    assert result.invoices[0].change == "replaced"
    assert planned.id != held.id


def test_tenant_with_another_currency_is_held(ledger: Client, store: Engine) -> None:
    with store.begin() as connection:
        connection.execute(
            insert(tenants).values(
                tenant="acme", name="Acme", email="a@acme.example", currency="EUR", net_days=30,
                created_at_ms=0,
            )
        )  # fmt: skip
    publish_period(ledger, store, OCTOBER, [usage(quantities={INPUT: 1_000_000})])
    plan(ledger, store)
    (row,) = rows(store)
    assert (row.state, row.hold_reason) == (
        "held",
        "tenant pays in EUR, the price book is in USD",
    )


def test_planned_invoice_follows_usage_that_came_late(ledger: Client, store: Engine) -> None:
    publish_period(ledger, store, OCTOBER, TWO_TENANTS)
    plan(ledger, store)
    publish_run(ledger, store, MORE.hour, [TWO_TENANTS[1], MORE], offset=2)
    result = plan(ledger, store)
    acme, _ = rows(store)
    assert (acme.total_minor, acme.state) == (74, "planned")
    assert [planned.change for planned in result.invoices] == ["replaced", "replaced"]


@pytest.mark.parametrize("begun", ["state", "lease", "journal"])
def test_begun_invoice_is_never_overwritten(ledger: Client, store: Engine, begun: str) -> None:
    publish_period(ledger, store, OCTOBER, [TWO_TENANTS[0]])
    plan(ledger, store)
    (before,) = rows(store)
    if begun == "state":
        set_invoice(store, state="drafted")
    elif begun == "lease":
        set_invoice(store, lease_owner="host/1/a", lease_until_ms=NOW_MS + 1)
    else:
        journal_a_call(store, before.id)
    publish_run(ledger, store, MORE.hour, [MORE], offset=2)
    with pytest.raises(InvoiceHeldError) as refused:
        plan(ledger, store)
    (after,) = rows(store)
    assert (after.id, after.body, after.total_minor) == (before.id, before.body, before.total_minor)
    assert before.id in str(refused.value)
    assert "total 14" in str(refused.value)
    assert "total 74" in str(refused.value)


def test_begun_invoice_of_one_tenant_does_not_keep_the_others(
    ledger: Client, store: Engine
) -> None:
    publish_period(ledger, store, OCTOBER, [TWO_TENANTS[0]])
    plan(ledger, store)
    set_invoice(store, state="drafted")
    publish_run(ledger, store, MORE.hour, [MORE, TWO_TENANTS[1]], offset=2)
    with pytest.raises(InvoiceHeldError):
        plan(ledger, store)
    assert [(row.tenant, row.state) for row in rows(store)] == [
        ("acme", "drafted"),
        ("globex", "planned"),
    ]


def test_issued_invoice_stays_when_only_other_tenants_had_late_usage(
    ledger: Client, store: Engine
) -> None:
    publish_period(ledger, store, OCTOBER, TWO_TENANTS)
    plan(ledger, store)
    set_invoice(store, state="issued")
    before = rows(store)
    again = usage(
        5, tenant="globex", service_tier="priority", quantities={INPUT: 2_000_000, "gpu_ns": 7}
    )
    publish_run(
        ledger,
        store,
        again.hour,
        [again, usage(5, tenant="hooli", quantities={INPUT: 5})],
        offset=2,
    )
    plan(ledger, store)
    assert rows(store)[:2] == before


def test_planned_invoice_whose_usage_is_gone_is_held_at_nothing(
    ledger: Client, store: Engine
) -> None:
    publish_period(ledger, store, OCTOBER, TWO_TENANTS)
    plan(ledger, store)
    publish_run(ledger, store, TWO_TENANTS[1].hour, [], offset=2)
    result = plan(ledger, store)
    acme, globex = rows(store)
    assert acme.state == "planned"
    assert (globex.state, globex.total_minor) == ("held", 0)
    assert "none of the usage" in globex.hold_reason
    assert [planned.change for planned in result.invoices] == ["unchanged", "replaced"]
    assert {planned.change for planned in plan(ledger, store).invoices} == {"unchanged"}
    publish_run(ledger, store, TWO_TENANTS[1].hour, [TWO_TENANTS[1]], offset=3)
    plan(ledger, store)
    _, globex = rows(store)
    assert (globex.state, globex.total_minor) == ("planned", 24)


def test_issued_invoice_whose_usage_is_gone_is_corrected_and_stays(
    ledger: Client, store: Engine
) -> None:
    publish_period(ledger, store, OCTOBER, [TWO_TENANTS[0]])
    plan(ledger, store)
    set_invoice(store, state="issued")
    publish_run(ledger, store, TWO_TENANTS[0].hour, [], offset=2)
    result = plan(ledger, store)
    (row,) = rows(store)
    assert (row.state, row.total_minor) == ("issued", 14)
    assert [one.change for one in result.invoices] == ["late"]
    assert [(one.invoice_id, one.total_minor) for one in result.corrections] == [(row.id, -14)]


def test_void_invoice_is_an_error_when_its_usage_changes(ledger: Client, store: Engine) -> None:
    publish_period(ledger, store, OCTOBER, [TWO_TENANTS[0]])
    plan(ledger, store)
    set_invoice(store, state="void")
    publish_run(ledger, store, MORE.hour, [MORE], offset=2)
    with pytest.raises(InvoiceHeldError, match="is void as"):
        plan(ledger, store)


def test_lease_that_ran_out_does_not_keep_an_invoice(ledger: Client, store: Engine) -> None:
    publish_period(ledger, store, OCTOBER, [TWO_TENANTS[0]])
    plan(ledger, store)
    set_invoice(store, lease_owner="host/1/a", lease_until_ms=NOW_MS)
    publish_run(ledger, store, MORE.hour, [MORE], offset=2)
    assert plan(ledger, store).invoices[0].change == "replaced"


def test_ledger_that_lost_rows_of_a_run_is_refused(ledger: Client, store: Engine) -> None:
    publish_period(ledger, store, OCTOBER, TWO_TENANTS)
    ledger.command(
        "ALTER TABLE usage_hourly_runs DELETE WHERE tenant = 'globex' SETTINGS mutations_sync = 2"
    )
    with pytest.raises(ConservationError, match="has 0 rows in the ledger, its header says 1"):
        plan(ledger, store)
    assert rows(store) == []


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("DELETE WHERE tenant = 'acme'", "acme 2026-10-01T00:00Z, 2026-10-31T23:00Z"),
        ("DELETE WHERE 1", "acme 2026-10-01T00:00Z, 2026-10-31T23:00Z; globex 2026-10-01T05:00Z"),
        ("UPDATE requests = requests + 1 WHERE tenant = 'globex'", "globex 2026-10-01T05:00Z"),
        ("UPDATE tenant = 'acme' WHERE tenant = 'globex'", "acme 2026-10-01T05:00Z; globex"),
    ],
)
def test_period_whose_proofs_do_not_hold_its_usage_is_refused(
    ledger: Client, store: Engine, lost: str, named: str
) -> None:
    publish_period(ledger, store, OCTOBER, TWO_TENANTS)
    if "tenant = 'acme' WHERE" in lost:  # a key column: cannot be updated in place
        copied = "hour, run_id, 'acme', requests, events, digest"
        ledger.command(
            f"INSERT INTO run_tenants SELECT {copied} FROM run_tenants WHERE tenant = 'globex'"
        )
        lost = "DELETE WHERE tenant = 'globex'"
    ledger.command(f"ALTER TABLE run_tenants {lost} SETTINGS mutations_sync = 2")
    with pytest.raises(PeriodNotReadyError) as refused:
        plan(ledger, store)
    assert f"does not hold the usage of {named}" in str(refused.value)
    assert "`rentroll close --period 2026-10` writes what is missing" in str(refused.value)
    assert rows(store) == []


def test_many_unproven_hours_are_named_by_the_first_of_them(ledger: Client, store: Engine) -> None:
    publish_period(ledger, store, OCTOBER, [usage(hour) for hour in range(5, 15)])
    ledger.command("TRUNCATE TABLE run_tenants SYNC")
    with pytest.raises(PeriodNotReadyError, match=r"acme 2026-10-01T05:00Z.* and 7 more hours"):
        plan(ledger, store)


def test_usage_streams_in_blocks_in_the_order_of_tenants(ledger: Client, store: Engine) -> None:
    used = [
        usage(hour, tenant=tenant, quantities={INPUT: hour})
        for hour in range(20)
        for tenant in ("c", "a", "b")
    ]
    publish_period(ledger, store, OCTOBER, used)

    def without_run(row: HourlyUsage) -> tuple[str, object, int]:
        return row.tenant, row.hour, row.quantities[INPUT]

    read = list(read_usage(ledger, OCTOBER, block_rows=7))
    assert [without_run(row) for row in read] == sorted(without_run(row) for row in used)
    only = list(read_usage(ledger, OCTOBER, tenant="b", block_rows=7))
    assert {row.tenant for row in only} == {"b"}
    assert len(only) == 20
    assert len(only[0].run_id) == 64


def journal_a_call(store: Engine, invoice_id: str) -> None:
    with store.begin() as connection:
        connection.execute(
            insert(stripe_calls).values(
                invoice_id=invoice_id, step="draft", generation=1, idempotency_key="k",
                params="{}", opened_at_ms=0, attempts=0,
            )
        )  # fmt: skip
