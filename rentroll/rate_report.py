"""Shows a rating in the terminal: each tenant's lines, their total, and what has no price."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from fractions import Fraction
from itertools import groupby

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table

from billing.rating import Rating, rate
from billing.settings import BillingSettings
from billing.usage_reader import read_usage
from billing.wording import (
    METER_WORDS,
    exact_text,
    money_text,
    per_text,
    price_text,
    product_text,
    quantity_text,
)
from infra.clickhouse.client import Client
from schemas.billing import HourlyUsage, UnpricedUsage
from schemas.money import round_to_minor
from schemas.periods import Period
from schemas.prices import PriceBook

ROWS_PER_STEP = 1_000
"""How often the progress display is touched; it would cost more than the rating."""


def show_rating(
    ledger: Client,
    book: PriceBook,
    period: Period,
    *,
    tenant: str | None,
    settings: BillingSettings,
) -> int:
    """Print each tenant's rated lines and totals, then what has no price; returns how many."""
    tables: list[Table] = []
    unpriced: list[UnpricedUsage] = []
    total_minor = requests = gpu_ns = 0
    usage = read_usage(ledger, period, tenant=tenant, block_rows=settings.usage_block_rows)
    with closing(usage), rows_progress() as progress:
        rows = counted(usage, progress)
        for name, its_rows in groupby(rows, key=lambda row: row.tenant):
            rating = rate(its_rows, book, period)
            exact = sum((line.amount() for line in rating.lines), Fraction(0))
            total_minor += round_to_minor(exact, book.currency)
            requests += rating.totals[name].requests
            gpu_ns += rating.totals[name].gpu_ns
            unpriced.extend(rating.unpriced)
            tables.append(_tenant_table(name, rating, book, exact))
    console = Console()
    console.print(*tables, sep="\n")
    console.print(
        f"{period.name}, book {book.name} ({book.sha256()[:12]}): {requests:,} requests,"
        f" {quantity_text(gpu_ns, 'gpu_ns')} GPU-seconds,"
        f" {book.currency} {money_text(total_minor, book.currency)}",
        highlight=False,
        soft_wrap=True,
    )
    if unpriced:
        console.print(_unpriced_table(unpriced))
    return len(unpriced)


def _tenant_table(tenant: str, rating: Rating, book: PriceBook, exact: Fraction) -> Table:
    prices = {price.id: price for price in book.prices}
    rounded = money_text(round_to_minor(exact, book.currency), book.currency)
    table = Table(
        title=f"{tenant}: {book.currency} {rounded}", title_justify="left", show_footer=True
    )
    table.add_column("Product", "Total")
    table.add_column("Meter")
    table.add_column("Requests", f"{rating.totals[tenant].requests:,}", justify="right")
    table.add_column("Quantity", justify="right")
    table.add_column("Unit price", justify="right")
    table.add_column("Per", justify="right")
    table.add_column(f"Exact {book.currency}", exact_text(exact), justify="right")
    for line in rating.lines:
        price = prices.get(line.price_id)
        table.add_row(
            product_text(line),
            METER_WORDS[line.meter],
            f"{line.requests:,}",
            quantity_text(line.quantity, line.meter),
            price_text(price) if price else "not billed",
            per_text(price) if price else "",
            exact_text(line.amount()) if price else "",
        )
    for total in rating.information:
        table.add_row(
            f"{total.model}{f' + {total.adapter}' if total.adapter else ''} ({total.service_tier})",
            METER_WORDS[total.meter],
            f"{total.requests:,}",
            quantity_text(total.quantity, total.meter),
            "information",
            "",
            "",
            style="dim",
        )
    return table


def _unpriced_table(unpriced: Iterable[UnpricedUsage]) -> Table:
    table = Table(title="Usage without a price; not billed at zero", title_justify="left")
    for heading in ("Tenant", "Product", "Meter", "Since"):
        table.add_column(heading)
    for heading in ("Requests", "Quantity"):
        table.add_column(heading, justify="right")
    for one in unpriced:
        table.add_row(
            one.tenant,
            product_text(one),
            METER_WORDS[one.meter],
            one.first_hour,
            f"{one.requests:,}",
            quantity_text(one.quantity, one.meter),
        )
    return table


def rows_progress() -> Progress:
    """Counts rows on stderr while they are rated."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description} {task.completed:,.0f} rows"),
        console=Console(stderr=True),
        transient=True,
    )


def counted(usage: Iterable[HourlyUsage], progress: Progress) -> Iterator[HourlyUsage]:
    """The rows, counted on the display."""
    task = progress.add_task("rating hourly usage", total=None)
    for count, row in enumerate(usage, start=1):
        if count % ROWS_PER_STEP == 0:
            progress.update(task, completed=count)
        yield row
