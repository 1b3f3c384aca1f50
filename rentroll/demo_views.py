"""How a run's report reads: the closing table, and what keeps it from closing."""

from rich.console import Console
from rich.table import Table

from rentroll.report import STAGE_TITLES, STAGES, RunReport
from schemas.money import format_minor

LISTED_MAX = 10


def closing_table(report: RunReport) -> Table:
    """Every quantity at every stage where it applies, with its difference."""
    table = Table(title="every count, at every stage", title_justify="left", header_style="bold")
    table.add_column("")
    for stage in STAGES:
        table.add_column(STAGE_TITLES[stage], justify="right", no_wrap=True)
    table.add_column("difference", justify="right", no_wrap=True)
    for row in report.rows():
        money = row.name == "amount_minor"
        cells = [
            _cell(row.at[stage], report.currency if money else "") if stage in row.at else "·"
            for stage in STAGES
        ]
        difference = row.difference()
        style = "green" if difference == 0 else "bold red"
        name = f"amount, {report.currency}" if money and report.currency else row.name
        table.add_row(name.replace("_", " "), *cells, f"[{style}]{_cell(difference, '')}[/]")
    return table


def show_report(console: Console, report: RunReport) -> None:
    """The table, what was lost, doubled, held or refused, and the verdict."""
    console.print(closing_table(report))
    console.print(
        f"lost {report.lost} · doubled {report.doubled} · held hours {len(report.held_hours)}"
        f" · dead letters {len(report.dead_letters)} · invoices {report.invoices}",
        highlight=False,
    )
    _list(console, "held hours", report.held_hours)
    _list(console, "held invoices", report.held_invoices)
    _list(console, "dead letters", report.dead_letters)
    if report.closes():
        console.print("[bold green]every identity closes to zero[/]")
    else:
        console.print("[bold red]something does not add up; see above[/]")


def _list(console: Console, title: str, items: tuple[str, ...]) -> None:
    if not items:
        return
    console.print(f"[bold red]{title}[/]")
    for item in items[:LISTED_MAX]:
        console.print(f"  {item}", markup=False, highlight=False)
    if len(items) > LISTED_MAX:
        console.print(f"  and {len(items) - LISTED_MAX} more")


def _cell(amount: int, currency: str) -> str:
    return format_minor(amount, currency) if currency else f"{amount:,}"
