"""`rentroll rate` and `statement`: what usage costs, and what a tenant reads of it."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rentroll.opened import endpoints_now, ledger_opened, store_opened

if TYPE_CHECKING:
    from billing.statement_view import StatementView

PeriodOption = Annotated[
    str, typer.Option("--period", help="The month that is billed, such as 2026-10.")
]


class Format(StrEnum):
    """How a statement is set."""

    text = "text"
    html = "html"
    csv = "csv"
    pdf = "pdf"


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    app.command(name="rate")(rate)
    app.command(name="statement")(statement)


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
    endpoints = endpoints_now()
    with store_opened(endpoints) as store:
        book = load_book(store, book_name)
        problems = period_problems(store, period)
    if problems:
        Console(stderr=True).print(
            f"[yellow]{period.name} is not complete:[/] these figures may still change"
        )
    with ledger_opened(endpoints) as ledger:
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
    endpoints = endpoints_now()
    period = parse_period(period_name)
    with ledger_opened(endpoints) as ledger, store_opened(endpoints) as store:
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
