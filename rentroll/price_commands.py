"""`rentroll prices`: check, import, read and compare price books, and say why a price applies."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rentroll.opened import endpoints_now, ledger_opened, store_opened

if TYPE_CHECKING:
    from schemas.prices import PriceBook

BookFileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The price book, as YAML.")]
BookOption = Annotated[
    str | None, typer.Option("--book", help="Name or hash of an imported book; else the last.")
]

prices = typer.Typer(
    name="prices",
    no_args_is_help=True,
    help="Check, import, read and compare price books; say why a price applies.",
)


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    app.add_typer(prices)


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
    with store_opened(endpoints_now()) as store:
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

    with store_opened(endpoints_now()) as store:
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

    with store_opened(endpoints_now()) as store:
        book = load_book(store, name)
    Console().print(*book_tables(book), sep="\n")


@prices.command(name="explain")
def explain_price(
    used: Annotated[
        list[str],
        typer.Argument(
            metavar="FIELD=VALUE...",
            help="What was used: model, tenant, project, adapter, service_tier, gpu_type, region.",
        ),
    ],
    *,
    hour: Annotated[
        str, typer.Option("--hour", metavar="YYYY-MM-DDTHH", help="In which hour, UTC; else now.")
    ] = "",
    meter: Annotated[
        str, typer.Option("--meter", help="Only this meter; else every one that is billed.")
    ] = "",
    book_name: BookOption = None,
) -> None:
    """Say which price usage gets, and why each other candidate does not apply.

    Example: [bold]rentroll prices explain model=llama-3.1-8b service_tier=batch tenant=acme[/]
    """
    from rich.console import Console

    from rentroll.price_tables import dimensions_of, explained_tables
    from schemas.clock import SystemClock
    from schemas.errors import ContractError
    from schemas.periods import parse_hour
    from schemas.units import MS_PER_HOUR, MS_PER_S, NS_PER_MS

    dimensions = dimensions_of(used)
    if hour:
        hour_ms = int(parse_hour(hour).start.timestamp()) * MS_PER_S
    else:
        now_ms = SystemClock().now_ns() // NS_PER_MS
        hour_ms = now_ms - now_ms % MS_PER_HOUR
    book = _book(book_name)
    if meter and meter not in book.billed_meters:
        billed = ", ".join(book.billed_meters)
        raise ContractError(f"--meter: {meter!r} is not billed by {book.name}; {billed} are")
    meters = (meter,) if meter else book.billed_meters
    Console().print(*explained_tables(book, dimensions, hour_ms, meters=meters), sep="\n")


@prices.command(name="diff")
def diff_prices(
    before: Annotated[str, typer.Argument(help="A file, or name or hash of an imported book.")],
    after: Annotated[str, typer.Argument(help="The same of the other one.")],
) -> None:
    """Show every price and rule in which two books differ, and from when to when.

    Example: [bold]rentroll prices diff example-2026 my-prices.yaml[/]
    """
    from rich.console import Console

    from rentroll.price_tables import changes_table

    old, new = _file_or_book(before), _file_or_book(after)
    Console().print(changes_table(old, new))


@prices.command(name="backtest")
def backtest_prices(
    period_name: Annotated[
        str, typer.Option("--period", metavar="YYYY-MM", help="The month that is rated again.")
    ],
    new: Annotated[
        str, typer.Option("--book", help="The book to try: a file, or one that is imported.")
    ],
    *,
    against: Annotated[
        str | None, typer.Option("--against", help="The book it is held against; else the last.")
    ] = None,
) -> None:
    """Rate a month's real usage with another book, and show the change for each tenant.

    Writes nothing. Ends with status 1 if the new book has no price for some usage.

    Example: [bold]rentroll prices backtest --book my-prices.yaml --period 2026-10[/]
    """
    from billing.settings import BillingSettings
    from rentroll.backtest_report import show_backtest
    from schemas.errors import MissingPriceError
    from schemas.periods import parse_period

    period = parse_period(period_name)
    tried = _file_or_book(new)
    used = _book(against)
    with ledger_opened(endpoints_now()) as ledger:
        unpriced = show_backtest(ledger, used, tried, period, settings=BillingSettings())
    if unpriced:
        raise MissingPriceError(f"{unpriced} kinds of usage have no price in book {tried.name}")


def _book(name: str | None) -> "PriceBook":
    from billing.price_books import load_book

    with store_opened(endpoints_now()) as store:
        return load_book(store, name)


def _file_or_book(name: str) -> "PriceBook":
    """The book in this file; where there is no such file, the imported book of this name."""
    from billing.price_book_file import read_price_book

    path = Path(name)
    return read_price_book(path).book if path.is_file() else _book(name)
