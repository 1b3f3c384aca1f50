"""Price books as tables for the terminal."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from billing.book_changes import price_changes, rule_changes
from billing.explaining import explain
from billing.price_books import ImportedBook
from billing.wording import METER_WORDS, per_text, price_text
from schemas.errors import ContractError
from schemas.ids import format_ms
from schemas.periods import hour_text
from schemas.price_selection import Dimensions
from schemas.prices import SELECTORS, Price, PriceBook

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


def dimensions_of(used: Sequence[str]) -> Dimensions:
    """What `model=x tenant=y` selects on; a field that is not named is empty.

    Raises:
        ContractError: If a word is not `field=value`, or there is no such field.
    """
    named: dict[str, str] = {}
    for word in used:
        field, equals, value = word.partition("=")
        if not equals or not value or field not in SELECTORS or field in named:
            raise ContractError(
                f"{word!r}: each once, as field=value; fields are {', '.join(SELECTORS)}"
            )
        named[field] = value
    tenant, project, model, adapter, tier, gpu_type, region = (
        named.get(field, "") for field in SELECTORS
    )
    return tenant, project, model, adapter, tier, gpu_type, region


def explained_tables(
    book: PriceBook, dimensions: Dimensions, hour_ms: int, *, meters: Sequence[str]
) -> Iterator[Table]:
    """Of each meter every candidate, in the order in which they are asked."""
    for meter in meters:
        candidates = explain(book, dimensions, meter, hour_ms)
        won = any(one.wins for one in candidates)
        outcome = "" if won else ": NO PRICE, usage would hold the invoice"
        table = Table(
            title=f"{METER_WORDS[meter]} at {hour_text(hour_ms)}{outcome}", title_justify="left"
        )
        for heading in ("", "Price", "For", f"{book.currency}", "Per", "Why"):
            table.add_column(heading)
        for one in candidates:
            table.add_row(
                "applies" if one.wins else "",
                one.price.id,
                _selection(one.price),
                price_text(one.price),
                per_text(one.price),
                one.why,
                style="" if one.wins else "dim",
            )
        yield table


def changes_table(before: PriceBook, after: PriceBook) -> Table:
    """One row for each difference."""
    table = Table(title=f"{before.name} -> {after.name}", title_justify="left")
    for heading in ("What", "From", "Until", before.name, after.name):
        table.add_column(heading)
    for rule in rule_changes(before, after):
        table.add_row(rule.what, "", "", rule.before, rule.after)
    for change in price_changes(before, after):
        shown = change.after or change.before
        if shown is None:
            continue
        table.add_row(
            f"{METER_WORDS[shown.meter]} for {_selection(shown)}",
            hour_text(change.from_ms),
            "" if change.until_ms is None else hour_text(change.until_ms),
            _priced(change.before),
            _priced(change.after),
        )
    return table


def _priced(price: Price | None) -> str:
    return "no price" if price is None else f"{price_text(price)} per {per_text(price)}"


def _selection(price: Price) -> str:
    chosen = list(price.select.fixed())
    if price.select.hours_of_week is not None:
        chosen.append(f"({len(price.select.hours_of_week)} hours of the week)")
    return " ".join(chosen) or "everything"
