"""`rentroll reconcile`: nothing between ledger and Stripe differs without a reason."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, update

from billing.planning import plan_period
from billing.price_book_file import BookFile
from billing.price_books import import_book
from billing.settings import BillingSettings
from billing.stripe_gateway import LOCAL, StripeGateway
from infra.store.tables import invoices
from rentroll.equations import Equation
from rentroll.reconciling import Reconciliation, reconcile
from streams.settings import StreamSettings
from tests.support.billing_examples import OCTOBER, book_of, unit_price
from tests.support.closing import Books
from tests.support.command_line import Rentroll
from tests.support.events import HOUR_MS, OCTOBER_MS, HostScript, rewritten
from tests.support.servers.stripe_fake import stand_in

BOOK = book_of(
    unit_price("input", "1234.5"), unit_price("output", "3333.3", meter="output_text_tokens")
)


@pytest.fixture
def store_url(tmp_path: Path, migrated_sqlite_file: Path) -> str:
    """What is counted is the same on every database."""
    path = tmp_path / "store.db"
    shutil.copy(migrated_sqlite_file, path)
    return f"sqlite:///{path}"


@pytest.fixture
def host(books: Books) -> HostScript:
    """Two tenants' requests over three hours and a part of one of them, closed."""
    sent = HostScript("reconciled")
    for hour in range(3):
        start_ms = OCTOBER_MS + hour * HOUR_MS
        requests = [
            sent.request(
                start_ms + number * 1000,
                ("acme", "globex")[number % 2],
                input_cache_read_tokens=50 * number,  # on a meter that the book does not bill
            )
            for number in range(4)
        ]
        sent.part_of(requests[-1])
        sent.interval(OCTOBER_MS + (hour + 1) * HOUR_MS)
    sent.closed(OCTOBER_MS + 3 * HOUR_MS)
    books.register(sent)
    books.writer.write(sent.records)
    books.close(period=OCTOBER)
    import_book(books.store, BookFile(BOOK, "test"), imported_by="ann", now_ms=0)
    return sent


def plan(books: Books) -> None:
    plan_period(
        books.client, books.store, OCTOBER, BOOK, clock=books.clock, settings=BillingSettings()
    )


def reconciled(books: Books, gateway: StripeGateway | None = None) -> Reconciliation:
    return reconcile(books.client, books.store, gateway, OCTOBER, settings=StreamSettings())


def requests(equation: Equation) -> tuple[int, int, int]:
    return equation.left[0], equation.right[0], equation.explained()[0]


@pytest.mark.usefixtures("host")
def test_untouched_month_is_reconciled_to_the_last_nanosecond(
    books: Books, rentroll: Rentroll
) -> None:
    plan(books)
    found = reconciled(books)
    assert found.faults() == []
    ledger, invoiced = found.equations
    assert ledger.parts == invoiced.parts == ()
    assert requests(ledger) == requests(invoiced) == (12, 12, 0)
    # 12 requests of 40 ms, 3 parts of 7 ms.
    assert ledger.left[-1] == invoiced.right[-1] == 501_000_000
    said = rentroll.run("reconcile", "--period", "2026-10", "--no-stripe")
    assert said.returncode == 0, said.stderr
    assert "reconciled: 2026-10, 0 differences" in said.stdout
    books.client.command(
        "ALTER TABLE usage_hourly_runs UPDATE requests = requests + 1 WHERE tenant = 'acme'"
        " AND hour = '2026-10-01 01:00:00' SETTINGS mutations_sync = 2"
    )
    said = rentroll.run("reconcile", "--period", "2026-10", "--no-stripe")
    assert said.returncode == 1
    assert "2026-10-01T01:00Z, requests: 4 on the left, 5 on the right" in said.stdout


def test_what_is_not_billed_is_listed_with_its_reason_and_its_events(
    books: Books, host: HostScript
) -> None:
    plan(books)
    stranger = HostScript("stranger")
    unknown = stranger.request(OCTOBER_MS + 7000)
    late = HostScript("late")
    behind = late.request(OCTOBER_MS + HOUR_MS + 8000)
    undecided = HostScript("undecided")
    elsewhere = undecided.request(OCTOBER_MS + 40 * HOUR_MS)
    books.register(late)
    books.writer.write([unknown, behind, elsewhere])
    found = reconciled(books)
    assert found.faults() == []
    ledger = found.equations[0]
    assert requests(ledger) == (15, 12, 3)
    assert [(one.key, one.reason, one.names) for one in ledger.parts] == [
        (
            "2026-10-01T00:00Z",
            "sent by a source that is not registered",
            (unknown.event.id,),
        ),
        (
            "2026-10-01T01:00Z",
            "came after its hour was closed: close it again",
            (behind.event.id,),
        ),
        (
            "2026-10-02T16:00Z",
            "no signature of its source covers it as it lies there",
            (elsewhere.event.id,),
        ),
    ]


def test_contradicting_event_is_listed_as_such_once_its_hour_was_closed_again(
    books: Books, host: HostScript
) -> None:
    forged = rewritten(host.records[1], input_uncached_tokens=999)
    books.writer.write([forged])
    books.close(period=OCTOBER)
    plan(books)
    found = reconciled(books)
    assert found.faults() == []
    (part,) = found.equations[0].parts
    assert (part.key, part.reason) == (
        "2026-10-01T00:00Z",
        "several contents under its id, or dropped by decision",
    )
    assert part.names == (forged.event.id,)
    assert part.sums[:2] == (2, 1099)


def test_event_that_the_ledger_lost_has_no_reason(books: Books, host: HostScript) -> None:
    plan(books)
    books.client.command(
        f"ALTER TABLE usage_events DELETE WHERE event_id = '{host.records[3].event.id}'"
        " SETTINGS mutations_sync = 2"
    )
    faults = reconciled(books).faults()
    assert any("2026-10-01T00:00Z, requests: 3 on the left" in fault for fault in faults)


@pytest.mark.usefixtures("host")
def test_usage_without_an_invoice_is_explained_by_what_holds_it(books: Books) -> None:
    unplanned = reconciled(books)
    assert unplanned.faults() == []
    assert [(one.key, one.reason) for one in unplanned.equations[1].parts] == [
        ("acme", "no invoice planned"),
        ("globex", "no invoice planned"),
    ]
    plan(books)
    with books.store.begin() as connection:
        held = {"state": "held", "hold_reason": "someone asked"}
        connection.execute(update(invoices).where(invoices.c.tenant == "acme").values(held))
    found = reconciled(books)
    assert found.faults() == []
    (part,) = found.equations[1].parts
    assert (part.key, part.reason, part.sums[0]) == ("acme", "invoice held: someone asked", 6)


@pytest.mark.usefixtures("host")
def test_usage_that_was_rolled_up_after_the_invoice_is_told_with_its_hour(books: Books) -> None:
    plan(books)
    late = HostScript("late", host="host-2")
    late.request(OCTOBER_MS + 5000)
    late.interval(OCTOBER_MS + HOUR_MS)
    late.closed(OCTOBER_MS + HOUR_MS)
    books.register(late)
    books.writer.write(late.records)
    books.close(period=OCTOBER)
    found = reconciled(books)
    assert found.faults() == []
    (part,) = found.equations[1].parts
    assert (part.key, part.reason, part.sums[0], part.names) == (
        "acme",
        "closed again since the invoice was made",
        1,
        ("2026-10-01T00:00Z",),
    )


@pytest.mark.usefixtures("host")
def test_line_that_is_gone_from_an_invoice_has_no_reason(books: Books) -> None:
    plan(books)
    with books.store.begin() as connection:
        mine = invoices.c.tenant == "acme"
        body = json.loads(connection.execute(select(invoices.c.body).where(mine)).scalar_one())
        gone = body["lines"].pop()
        body["total_minor"] -= gone["amount_minor"]
        connection.execute(update(invoices).where(mine).values(body=json.dumps(body)))
    (fault,) = reconciled(books).faults()
    assert fault.endswith("acme, output_text_tokens: 120 on the left, 0 on the right")


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[StripeGateway]:
    with stand_in(tmp_path / "stripe") as server:
        opened = StripeGateway("sk_test_rentroll", server.base, limits=LOCAL)
        yield opened
        opened.close()


@pytest.mark.usefixtures("host")
def test_invoice_that_stripe_does_not_have_has_no_reason(
    books: Books, gateway: StripeGateway
) -> None:
    plan(books)
    assert reconciled(books, gateway).faults() == []
    with books.store.begin() as connection:
        mine = invoices.c.tenant == "acme"
        connection.execute(update(invoices).where(mine).values(state="issued"))
    assert reconciled(books, gateway).faults() == [
        "invoices = Stripe: acme 2026-10: 114 minor units in the store, [] on Stripe"
    ]
