"""Late events after an issued invoice: closed again, planned, corrected to the last cent."""

from sqlalchemy import update

from billing.planning import PlanResult, plan_period
from billing.price_book_file import BookFile
from billing.price_books import import_book
from billing.settings import BillingSettings
from infra.store.tables import invoices
from schemas.billing import Invoice
from tests.support.billing_examples import OCTOBER, book_of, unit_price
from tests.support.closing import Books
from tests.support.command_line import Rentroll
from tests.support.events import HOUR_MS, OCTOBER_MS, HostScript

BOOK = book_of(unit_price("input", "7.77", per=1000))


def host_with_requests(name: str, requests: int) -> HostScript:
    """A host that served acme in October's first hour and is closed."""
    host = HostScript(name)
    for number in range(requests):
        host.request(OCTOBER_MS + number * 1000, "acme")
    host.interval(OCTOBER_MS + HOUR_MS)
    host.closed(OCTOBER_MS + HOUR_MS)
    return host


def arrive(books: Books, host: HostScript) -> None:
    books.register(host)
    books.writer.write(host.records)


def closed_and_planned(books: Books) -> PlanResult:
    books.close(period=OCTOBER)
    return plan_period(
        books.client, books.store, OCTOBER, BOOK, clock=books.clock, settings=BillingSettings()
    )


def issued(books: Books) -> Invoice:
    (planned,) = closed_and_planned(books).invoices
    with books.store.begin() as connection:
        connection.execute(update(invoices).values(state="issued"))
    return planned.invoice


def test_late_events_are_corrected_and_the_second_is_revision_two(
    books: Books, rentroll: Rentroll
) -> None:
    import_book(books.store, BookFile(BOOK, "test:1"), imported_by="ada", now_ms=0)
    arrive(books, host_with_requests("a", 3))
    invoice = issued(books)
    (line,) = invoice.lines
    each = line.rated.quantity // 3

    def costs_minor(requests: int) -> int:
        return (requests * each * 777 * 2 + 1000) // 2000

    assert invoice.total_minor == costs_minor(3)
    arrive(books, host_with_requests("b", 1))
    (first,) = closed_and_planned(books).corrections
    arrive(books, host_with_requests("c", 2))
    books.close(period=OCTOBER)
    planned = rentroll.run("corrections", "plan", "--period", "2026-10")
    assert planned.returncode == 0, planned.stderr
    assert "1 corrections recorded now" in planned.stdout
    assert (first.revision, first.invoice_id, first.requests) == (1, invoice.id, 4)
    assert first.total_minor == costs_minor(4) - costs_minor(3)
    assert first.events_root not in ("", invoice.events_root)
    again = rentroll.run("corrections", "plan", "--period", "2026-10")
    assert "0 corrections recorded now" in again.stdout
    assert "2026-10 rev. 2" in again.stdout
    statement = rentroll.run("statement", "acme", "--period", "2026-10").stdout
    corrected = statement.split("Corrected since this invoice was issued")[1].split("\n\n")[0]
    assert f"{costs_minor(6) // 100}.{costs_minor(6) % 100:02}" in corrected.splitlines()[-1]
    assert first.id[:12] in corrected
    shown = rentroll.run("corrections", "show", first.id[:12])
    assert f"charged before: {3 * each:,}" in " ".join(shown.stdout.split())
