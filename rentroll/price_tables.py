"""Price books as tables for the terminal."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from billing.price_books import ImportedBook
from billing.wording import METER_WORDS, per_text, price_text
from schemas.ids import format_ms
from schemas.periods import hour_text
from schemas.prices import Price, PriceBook

HASH_DIGITS = 12


def books_table(books: Sequence[ImportedBook]) -> Table:
    """One row per imported book; the first is the one in use."""
    table = Table(title="Price books", title_justify="left")
    for heading in ("Name", "SHA-256", "Imported", "By", ""):
        table.add_column(heading)
    for position, book in enumerate(books):
        table.add_row(
            book.name,
            book.sha256[:HASH_DIGITS],
            format_ms(book.imported_at_ms),
            book.imported_by,
            "in use" if position == 0 else "",
        )
    return table


def book_tables(book: PriceBook) -> Iterator[Table]:
    """The prices of a book, then what it bills."""
    prices = Table(title=f"{book.name} ({book.currency}) {book.sha256()}", title_justify="left")
    for heading in ("For", "Meter", "From", "Until"):
        prices.add_column(heading)
    for heading in (f"Price {book.currency}", "Per"):
        prices.add_column(heading, justify="right")
    for price in book.prices:
        until_ms = price.effective_until
        prices.add_row(
            _selection(price),
            METER_WORDS[price.meter],
            hour_text(price.effective_from),
            "" if until_ms is None else hour_text(until_ms),
            price_text(price),
            per_text(price),
        )
    yield prices
    outcomes = Table(title="How requests end", title_justify="left")
    outcomes.add_column("Outcome")
    outcomes.add_column("Is")
    for outcome, billing in book.outcomes.items():
        outcomes.add_row(outcome, billing)
    yield outcomes
    meters = Table(title="Meters that must have a price", title_justify="left")
    meters.add_column("Meter")
    for meter in book.billed_meters:
        meters.add_row(meter)
    yield meters


def _selection(price: Price) -> str:
    chosen = list(price.select.fixed())
    if price.select.hours_of_week is not None:
        chosen.append(f"({len(price.select.hours_of_week)} hours of the week)")
    return " ".join(chosen) or "everything"
