"""Corrections on real servers: late usage of an issued invoice, carried or given back, exactly."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest
from sqlalchemy import Engine, Executable, delete, select, update
from sqlalchemy.exc import IntegrityError

from billing.correction_credits import credit_note_issued, planned_credit_notes
from billing.correction_run import Corrected, CorrectionRun
from billing.planning import PlanResult, plan_period
from billing.price_book_file import BookFile
from billing.price_books import import_book
from billing.settings import BillingSettings
from infra.clickhouse.client import Client, connect
from infra.store.tables import correction_carries, correction_credits, corrections, invoices
from schemas.billing import HourlyUsage, Invoice
from schemas.clock import FixedClock
from schemas.errors import ContractError, InvoiceHeldError
from schemas.periods import HOUR, Period, parse_period
from schemas.prices import PriceBook
from tests.support.billing_examples import OCTOBER, book_of, unit_price, usage
from tests.support.published_usage import empty_ledger, publish_period, publish_run
from tests.support.published_usage import ledger as ledger_of

INPUT = "input_uncached_tokens"
NOVEMBER, DECEMBER = parse_period("2026-11"), parse_period("2026-12")
BOOK = book_of(unit_price("p", "1"))
SETTINGS = BillingSettings(new_tenant_email="new@example.invalid", usage_block_rows=100)
CLOCK = FixedClock(1_793_500_000_000_000_000)
MILLION = {INPUT: 1_000_000}
"""Costs 1.00."""


@pytest.fixture(scope="module")
def shared_ledger(clickhouse_url: str) -> Iterator[Client]:
    with ledger_of(clickhouse_url, "test_corrections") as client:
        yield client


@pytest.fixture
def ledger(shared_ledger: Client) -> Client:
    empty_ledger(shared_ledger)
    return shared_ledger


def in_month(hour: int, months: int, **changes: object) -> HourlyUsage:
    """Usage some hours into October, November (1) or December (2)."""
    start = (OCTOBER, NOVEMBER, DECEMBER)[months].start
    return replace(usage(0, **changes), hour=start + hour * HOUR)


def plan(
    ledger: Client, store: Engine, period: Period = OCTOBER, book: PriceBook = BOOK
) -> PlanResult:
    return plan_period(ledger, store, period, book, clock=CLOCK, settings=SETTINGS)


def correct(ledger: Client, store: Engine, book: PriceBook | None = None) -> Corrected:
    run = CorrectionRun(ledger, store, CLOCK, SETTINGS)
    return run.correct(OCTOBER, book=book, known=(BOOK,))


def correct_alone(url: str, store: Engine) -> Corrected:
    """With a connection to the ledger of its own, as another process has."""
    with closing(connect(url, "test_corrections")) as mine:
        return correct(mine, store)


def issue(store: Engine, period: str = "2026-10") -> None:
    with store.begin() as connection:
        connection.execute(
            update(invoices)
            .where(invoices.c.period == period)
            .values(state="issued", stripe_invoice=f"in_{period}")
        )


def execute(store: Engine, statement: Executable) -> None:
    with store.begin() as connection:
        connection.execute(statement)


def invoice_of(store: Engine, period: str) -> Invoice:
    query = select(invoices.c.body).where(invoices.c.period == period, invoices.c.tenant == "acme")
    with store.connect() as connection:
        return Invoice.model_validate_json(connection.execute(query).scalar_one())


def issued_october(ledger: Client, store: Engine, *rows: HourlyUsage) -> Invoice:
    publish_period(ledger, store, OCTOBER, rows or [usage(0, quantities=MILLION)])
    plan(ledger, store)
    issue(store)
    return invoice_of(store, "2026-10")


def with_book(store: Engine, book: PriceBook) -> None:
    """A book as it is imported from a file."""
    import_book(store, BookFile(book, "test:1"), imported_by="ada", now_ms=0)


def come_late(ledger: Client, store: Engine, tokens: int, *, offset: int) -> None:
    """Hour 5 is published again, with so many tokens."""
    rows = [usage(5, quantities={INPUT: tokens})] if tokens else []
    publish_run(ledger, store, OCTOBER.start + 5 * HOUR, rows, offset=offset)


def test_late_event_corrects_its_own_period_and_a_second_one_is_revision_two(
    ledger: Client, store: Engine
) -> None:
    invoice = issued_october(ledger, store)
    # 0.004 alone is no cent: two of them together are one, whichever came first.
    come_late(ledger, store, 4_000, offset=2)
    (first,) = plan(ledger, store).corrections
    come_late(ledger, store, 8_000, offset=3)
    (second,) = plan(ledger, store).corrections
    assert (first.revision, first.total_minor, first.invoice_id) == (1, 0, invoice.id)
    assert (second.revision, second.total_minor, second.invoice_id) == (2, 1, invoice.id)
    (line,) = second.lines
    assert (line.quantity_before, line.rated.quantity) == (1_004_000, 1_008_000)
    assert second.events_root != ""
    assert len(second.runs) == 2
    assert invoice_of(store, "2026-10") == invoice


def test_planned_twice_is_planned_once(ledger: Client, sqlite: Engine) -> None:
    issued_october(ledger, sqlite)
    come_late(ledger, sqlite, 1_000_000, offset=2)
    assert len(plan(ledger, sqlite).corrections) == 1
    assert plan(ledger, sqlite).corrections == ()
    assert correct(ledger, sqlite) == Corrected((), ())
    with sqlite.connect() as connection:
        assert len(connection.execute(select(corrections)).all()) == 1


def test_debit_is_carried_by_the_next_invoice_with_its_reference(
    ledger: Client, store: Engine
) -> None:
    invoice = issued_october(ledger, store)
    come_late(ledger, store, 2_000_000, offset=2)
    (one,) = plan(ledger, store).corrections
    publish_period(ledger, store, NOVEMBER, [in_month(0, 1, quantities=MILLION)])
    plan(ledger, store, NOVEMBER)
    plan(ledger, store, NOVEMBER)
    november = invoice_of(store, "2026-11")
    assert (november.own_minor(), november.carried_minor(), november.total_minor) == (100, 200, 300)
    (carried,) = november.corrections
    assert (carried.correction_id, carried.period, carried.revision, carried.invoice_id) == (
        one.id,
        "2026-10",
        1,
        invoice.id,
    )
    # Planned anew with other usage, it keeps what it carries; the next month carries nothing.
    publish_run(ledger, store, NOVEMBER.start + HOUR, [in_month(1, 1, quantities=MILLION)])
    plan(ledger, store, NOVEMBER)
    assert invoice_of(store, "2026-11").total_minor == 400
    publish_period(ledger, store, DECEMBER, [in_month(0, 2, quantities=MILLION)])
    plan(ledger, store, DECEMBER)
    assert invoice_of(store, "2026-12").total_minor == 100


def test_debit_of_a_tenant_without_later_usage_makes_an_invoice_of_its_own(
    ledger: Client, sqlite: Engine
) -> None:
    issued_october(ledger, sqlite)
    come_late(ledger, sqlite, 2_000_000, offset=2)
    plan(ledger, sqlite)
    publish_period(ledger, sqlite, NOVEMBER, [])
    for _ in range(2):
        (planned,) = plan(ledger, sqlite, NOVEMBER).invoices
        assert (planned.hold_reason, planned.invoice.total_minor) == ("", 200)


def test_credit_becomes_a_credit_note_for_the_original_invoice_and_is_issued_once(
    ledger: Client, store: Engine
) -> None:
    both = [usage(hour, quantities=MILLION) for hour in (0, 5)]
    invoice = issued_october(ledger, store, *both)
    come_late(ledger, store, 250_000, offset=2)
    (one,) = plan(ledger, store).corrections
    (note,) = planned_credit_notes(store)
    assert (one.total_minor, note.amount_minor) == (-75, 75)
    assert (note.correction_id, note.invoice_id, note.stripe_invoice) == (
        one.id,
        invoice.id,
        "in_2026-10",
    )
    for _ in range(2):
        credit_note_issued(store, note, stripe_credit_note="cn_1", number="A-1-CN", now_ms=1)
    assert planned_credit_notes(store) == []
    with pytest.raises(ContractError, match="is issued as cn_1, not cn_2"):
        credit_note_issued(store, note, stripe_credit_note="cn_2", number="A-1-CN", now_ms=1)
    for change in (
        update(corrections).values(total_minor=-1),
        delete(corrections),
        update(correction_credits).values(amount_minor=1),
        delete(correction_credits),
    ):
        with pytest.raises(IntegrityError, match=r"append-only|changes once|never deleted"):
            execute(store, change)


def test_usage_that_is_gone_is_given_back_whole(ledger: Client, sqlite: Engine) -> None:
    issued_october(ledger, sqlite)
    publish_run(ledger, sqlite, OCTOBER.start, [], offset=2)
    (one,) = plan(ledger, sqlite).corrections
    assert (one.total_minor, one.rated_minor, one.runs) == (-100, 0, ())
    assert [note.amount_minor for note in planned_credit_notes(sqlite)] == [100]


def test_credit_beyond_the_invoice_is_shared_with_the_one_that_carried_the_debit(
    ledger: Client, store: Engine
) -> None:
    october = issued_october(ledger, store)
    come_late(ledger, store, 2_000_000, offset=2)
    plan(ledger, store)
    publish_period(ledger, store, NOVEMBER, [in_month(0, 1, quantities=MILLION)])
    plan(ledger, store, NOVEMBER)
    come_late(ledger, store, 0, offset=3)
    publish_run(ledger, store, OCTOBER.start, [], offset=3)
    with pytest.raises(InvoiceHeldError, match="200 of a credit of 300 take back what a later"):
        plan(ledger, store)
    issue(store, "2026-11")
    (one,) = plan(ledger, store).corrections
    assert (one.revision, one.total_minor) == (2, -300)
    shares = {note.invoice_id: note.amount_minor for note in planned_credit_notes(store)}
    assert shares == {october.id: 100, invoice_of(store, "2026-11").id: 200}


def test_credit_of_a_debit_that_still_waits_is_carried_beside_it(
    ledger: Client, sqlite: Engine
) -> None:
    issued_october(ledger, sqlite)
    come_late(ledger, sqlite, 2_000_000, offset=2)
    plan(ledger, sqlite)
    come_late(ledger, sqlite, 500_000, offset=3)
    publish_run(ledger, sqlite, OCTOBER.start, [], offset=3)
    plan(ledger, sqlite)
    assert [note.amount_minor for note in planned_credit_notes(sqlite)] == [100]
    publish_period(ledger, sqlite, NOVEMBER, [])
    plan(ledger, sqlite, NOVEMBER)
    november = invoice_of(sqlite, "2026-11")
    assert [one.amount_minor for one in november.corrections] == [200, -150]
    # Charged 100 and 50, given back 100: what October costs now.
    assert november.total_minor == 50


def test_repricing_is_explicit_and_stays_in_force(ledger: Client, sqlite: Engine) -> None:
    issued_october(ledger, sqlite)
    dearer = book_of(unit_price("p2", "3"), name="dearer")
    with_book(sqlite, BOOK)
    assert plan(ledger, sqlite, book=dearer).corrections == ()
    (one,) = correct(ledger, sqlite, dearer).corrections
    assert one.total_minor == 200
    assert [(line.rated.price_id, line.amount_minor) for line in one.lines] == [
        ("p2", 300),
        ("p", -100),
    ]
    come_late(ledger, sqlite, 1_000_000, offset=2)
    run = CorrectionRun(ledger, sqlite, CLOCK, SETTINGS)
    (late,) = run.correct(OCTOBER, known=(BOOK, dearer)).corrections
    assert (late.total_minor, late.price_book_sha256) == (300, dearer.sha256())


def test_late_usage_without_a_price_is_named_and_corrects_nothing(
    ledger: Client, sqlite: Engine
) -> None:
    book = book_of(unit_price("p", "1", effective_until=1_790_812_800_000 + 3_600_000))
    publish_period(ledger, sqlite, OCTOBER, [usage(0, quantities=MILLION)])
    plan(ledger, sqlite, book=book)
    issue(sqlite)
    come_late(ledger, sqlite, 7, offset=2)
    with pytest.raises(InvoiceHeldError, match=r"correction of acme 2026-10: no price .* for 7"):
        plan(ledger, sqlite, book=book)


def test_waiting_correction_is_taken_by_one_invoice_only(ledger: Client, sqlite: Engine) -> None:
    issued_october(ledger, sqlite)
    come_late(ledger, sqlite, 2_000_000, offset=2)
    plan(ledger, sqlite)
    for period in (NOVEMBER, DECEMBER):
        publish_period(ledger, sqlite, period, [])
        plan(ledger, sqlite, period)
    with sqlite.connect() as connection:
        (taken,) = connection.execute(select(correction_carries.c.period)).scalars().all()
    assert taken == "2026-11"


def test_two_runners_at_once_record_one_correction(
    ledger: Client, clickhouse_url: str, store: Engine
) -> None:
    issued_october(ledger, store)
    come_late(ledger, store, 1_000_000, offset=2)
    with ThreadPoolExecutor(2) as pool:
        done = [
            runner.result()
            for runner in [pool.submit(correct_alone, clickhouse_url, store) for _ in range(2)]
        ]
    assert sorted(len(one.corrections) for one in done) == [0, 1]
    assert [one.problems for one in done] == [(), ()]
    with store.connect() as connection:
        assert connection.execute(select(corrections.c.total_minor)).scalars().all() == [100]


def test_hour_that_is_published_again_while_it_is_rated_is_not_corrected_from_the_old_one(
    ledger: Client, sqlite: Engine
) -> None:
    issued_october(ledger, sqlite)
    come_late(ledger, sqlite, 1_000_000, offset=2)

    class Clock:
        """Publishes the hour once more between the rating and the record."""

        def now_ns(self) -> int:
            come_late(ledger, sqlite, 3_000_000, offset=3)
            return CLOCK.now_ns()

    done = CorrectionRun(ledger, sqlite, Clock(), SETTINGS).correct(OCTOBER, known=(BOOK,))
    assert done.corrections == ()
    assert "published again meanwhile; run again" in done.problems[0]
    (one,) = correct(ledger, sqlite).corrections
    assert one.total_minor == 300
