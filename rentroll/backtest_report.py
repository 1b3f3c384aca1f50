"""Shows what each tenant would have paid under another price book."""

from contextlib import closing
from fractions import Fraction

from rich.console import Console
from rich.table import Table

from billing.backtest import backtest
from billing.settings import BillingSettings
from billing.usage_reader import read_usage
from billing.wording import money_text
from infra.clickhouse.client import Client
from rentroll.rate_report import counted, rows_progress
from schemas.money import round_to_minor
from schemas.periods import Period
from schemas.prices import PriceBook


def show_backtest(
    ledger: Client,
    before: PriceBook,
    after: PriceBook,
    period: Period,
    *,
    settings: BillingSettings,
) -> int:
    """Print both totals and the change by tenant; returns the kinds of usage without a new price.

    Where the books' currencies differ nothing is converted, and no change is shown.
    """
    table = Table(title=f"{period.name}: {before.name} -> {after.name}", title_justify="left")
    table.add_column("Tenant")
    for heading in (f"Was {before.currency}", f"Becomes {after.currency}", "Change", "%"):
        table.add_column(heading, justify="right")
    table.add_column("Without a price")
    unpriced = 0
    sums = [Fraction(0), Fraction(0)]
    usage = read_usage(ledger, period, block_rows=settings.usage_block_rows)
    with closing(usage), rows_progress() as progress:
        for one in backtest(counted(usage, progress), before, after, period):
            unpriced += one.unpriced_after
            sums = [sums[0] + one.before, sums[1] + one.after]
            missing = f"{one.unpriced_before} before, {one.unpriced_after} after"
            table.add_row(
                one.tenant,
                *_figures(one.before, one.after, before.currency, after.currency),
                missing if one.unpriced_before or one.unpriced_after else "",
            )
    table.add_section()
    table.add_row("All", *_figures(sums[0], sums[1], before.currency, after.currency), "")
    Console().print(table)
    return unpriced


def _figures(was: Fraction, becomes: Fraction, old: str, new: str) -> tuple[str, str, str, str]:
    was_minor, becomes_minor = round_to_minor(was, old), round_to_minor(becomes, new)
    figures = money_text(was_minor, old), money_text(becomes_minor, new)
    if old != new:
        return *figures, "", ""
    change = money_text(becomes_minor - was_minor, new)
    if not was:
        return *figures, change, ""
    permyriad = round((becomes - was) / was * 10_000)
    sign = "-" if permyriad < 0 else "+"
    whole, rest = divmod(abs(permyriad), 100)
    return *figures, change, f"{sign}{whole}.{rest:02d}"
