"""How a run's report reads: the closing table, and what keeps it from closing."""

from rich.console import Console
from rich.table import Table

from rentroll.report import STAGE_TITLES, STAGES, Row, RunReport
from schemas.money import format_minor

LISTED_MAX = 10
TITLES = {
    "events": "events",
    "input_uncached_tokens": "input tok",
    "input_cache_read_tokens": "cached tok",
    "input_cache_write_tokens": "cache-write tok",
    "output_text_tokens": "output tok",
    "output_reasoning_tokens": "reasoning tok",
    "gpu_ns": "GPU-ns",
}
HIDDEN_AT_ZERO = frozenset({"input_cache_write_tokens", "output_reasoning_tokens"})
"""Kinds of tokens that few engines have: shown where any stage counted one."""


def closing_table(report: RunReport) -> Table:
    """A line per stage, a column per quantity, and the differences below; fits 80 columns."""
    shown = [row for row in report.rows() if row.name not in HIDDEN_AT_ZERO or any(row.at.values())]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for row in shown:
        title = (report.currency or "amount") if row.name == "amount_minor" else TITLES[row.name]
        table.add_column(title, justify="right", no_wrap=True)
    for stage in STAGES:
        cells = (_cell(row, row.at.get(stage), report.currency) for row in shown)
        table.add_row(STAGE_TITLES[stage], *cells)
    table.add_section()
    table.add_row("difference", *(_difference(row) for row in shown))
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


def _cell(row: Row, amount: int | None, currency: str) -> str:
    if amount is None:
        return "·"
    money = row.name == "amount_minor" and currency
    return format_minor(amount, currency) if money else f"{amount:,}"


def _difference(row: Row) -> str:
    difference = row.difference()
    return f"[{'green' if difference == 0 else 'bold red'}]{difference:,}[/]"
