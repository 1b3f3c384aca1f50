"""`rentroll prices`, `rate` and `statement`: what usage costs, and what a tenant reads of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from billing.statement_view import StatementView
    from infra.clickhouse.client import Client
    from infra.endpoints import Endpoints

BookFileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The price book, as YAML.")]
PeriodOption = Annotated[
    str, typer.Option("--period", help="The month that is billed, such as 2026-10.")
]

prices = typer.Typer(
    name="prices", no_args_is_help=True, help="Check, import and read price books."
)


class Format(StrEnum):
    """How a statement is set."""

    text = "text"
    html = "html"
    csv = "csv"
    pdf = "pdf"


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    app.add_typer(prices)
    app.command(name="rate")(rate)
    app.command(name="statement")(statement)


@prices.command(name="check")
def check_prices(file: BookFileArgument) -> None:
    """Read a price book and say what is wrong with it, by file and line; changes nothing.

    Example: [bold]rentroll prices check my-prices.yaml[/]
    """
    from rich.console import Console

    from billing.price_book_file import read_price_book

    book = read_price_book(file).book
    Console(highlight=False).print(
        f"{book.name} is sound: {len(book.prices)} prices in {book.currency},"
        f" hash {book.sha256()[:12]}",
        soft_wrap=True,
    )


@prices.command(name="import")
def import_prices(
    file: BookFileArgument,
    *,
    imported_by: Annotated[
        str | None, typer.Option("--by", help="Who imports it; else RENTROLL_BILLING_OPERATOR.")
    ] = None,
) -> None:
    """Put a price book into the store, for good; the last imported one is used by default.

    The same file again changes nothing. A changed one needs a new name.

    Example: [bold]rentroll prices import my-prices.yaml[/]
    """
    from rich.console import Console

    from billing.price_book_file import read_price_book
    from billing.price_books import import_book
    from billing.settings import BillingSettings
    from schemas.clock import SystemClock
    from schemas.units import NS_PER_MS

    book_file = read_price_book(file)
    with _store(_endpoints()) as store:
        imported = import_book(
            store,
            book_file,
            imported_by=imported_by or BillingSettings().operator,
            now_ms=SystemClock().now_ns() // NS_PER_MS,
        )
    Console(highlight=False).print(
        f"{imported.name} is imported: {len(book_file.book.prices)} prices in"
        f" {book_file.book.currency}, hash {imported.sha256[:12]}",
        soft_wrap=True,
    )


@prices.command(name="list")
def list_prices() -> None:
    """Show the imported price books, the one in use first.

    Example: [bold]rentroll prices list[/]
    """
    from rich.console import Console

    from billing.price_books import list_books
    from rentroll.price_tables import books_table

    with _store(_endpoints()) as store:
        books = list_books(store)
    Console().print(books_table(books))


@prices.command(name="show")
def show_prices(
    name: Annotated[
        str | None, typer.Argument(help="Its name or the beginning of its hash; else the last.")
    ] = None,
) -> None:
    """Show every price of an imported book.

    Example: [bold]rentroll prices show example-2026[/]
    """
    from rich.console import Console

    from billing.price_books import load_book
    from rentroll.price_tables import book_tables

    with _store(_endpoints()) as store:
        book = load_book(store, name)
    Console().print(*book_tables(book), sep="\n")


def rate(
    period_name: PeriodOption,
    *,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only this tenant.")] = None,
    book_name: Annotated[
        str | None, typer.Option("--book", help="Name or hash of a price book; else the last.")
    ] = None,
) -> None:
    """Show what a month's published usage costs, exactly, by line; writes nothing.

    Ends with status 1 if some usage has no price; it is listed with its counts.

    Example: [bold]rentroll rate --period 2026-10 --tenant acme[/]
    """
    from rich.console import Console

    from billing.price_books import load_book
    from billing.settings import BillingSettings
    from infra.store.hours import period_problems
    from rentroll.rate_report import show_rating
    from schemas.errors import MissingPriceError
    from schemas.periods import parse_period

    period = parse_period(period_name)
    endpoints = _endpoints()
    with _store(endpoints) as store:
        book = load_book(store, book_name)
        problems = period_problems(store, period)
    if problems:
        Console(stderr=True).print(
            f"[yellow]{period.name} is not complete:[/] these figures may still change"
        )
    with _ledger(endpoints) as ledger:
        unpriced = show_rating(ledger, book, period, tenant=tenant, settings=BillingSettings())
    if unpriced:
        raise MissingPriceError(f"{unpriced} kinds of usage have no price in book {book.name}")


def statement(
    tenant: Annotated[str, typer.Argument(help="Whose statement.")],
    period_name: PeriodOption,
    *,
    form: Annotated[Format, typer.Option("--format", help="How it is set.")] = Format.text,
    output: Annotated[
        Path | None, typer.Option("--output", help="Write to this file; else to the terminal.")
    ] = None,
) -> None:
    """Show a tenant's statement of a month: charges, usage by day, what was not billed, proof.

    Example: [bold]rentroll statement acme --period 2026-10 --format pdf --output acme.pdf[/]
    """
    import sys

    from billing.settings import BillingSettings
    from billing.statement import load_statement
    from billing.statement_view import view_of
    from schemas.periods import parse_period

    if form is Format.pdf and output is None and sys.stdout.isatty():
        raise typer.BadParameter("a PDF is not for a terminal; add --output FILE")
    endpoints = _endpoints()
    period = parse_period(period_name)
    with _ledger(endpoints) as ledger, _store(endpoints) as store:
        source = load_statement(ledger, store, tenant=tenant, period=period)
    content = _set(view_of(source, BillingSettings()), form)
    if output is None:
        sys.stdout.buffer.write(content)
    else:
        output.write_bytes(content)
        typer.echo(f"{output}: statement {source.statement.number}, {len(content):,} bytes")


def _set(view: "StatementView", form: Format) -> bytes:
    match form:
        case Format.text:
            from billing.statement_text import render_text

            return render_text(view).encode()
        case Format.html:
            from billing.statement_html import render_html

            return render_html(view).encode()
        case Format.csv:
            from billing.statement_csv import render_csv

            return render_csv(view).encode()
        case Format.pdf:
            from billing.statement_pdf import render_pdf

            return render_pdf(view)


def _endpoints() -> "Endpoints":
    from infra.endpoints import resolve
    from infra.settings import InfraSettings

    return resolve(InfraSettings())


@contextmanager
def _store(endpoints: "Endpoints") -> Iterator["Engine"]:
    from infra.store.engine import open_store

    store = open_store(endpoints.store_url)
    try:
        yield store
    finally:
        store.dispose()


@contextmanager
def _ledger(endpoints: "Endpoints") -> Iterator["Client"]:
    from infra.clickhouse.client import connect

    client = connect(endpoints.clickhouse_url, endpoints.clickhouse_database)
    try:
        yield client
    finally:
        client.close()
