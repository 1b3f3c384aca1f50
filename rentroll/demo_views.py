"""How a run's report reads: the closing table, and what keeps it from closing."""

from rich.console import Console
from rich.table import Table

from rentroll.report import STAGE_TITLES, STAGES, Row, RunReport, ServedReport
from rentroll.served_counts import Side
from schemas.money import format_minor
from schemas.usage import TOKEN_METERS

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
SIDE_TITLES = {"clients": "the clients", "engine": "the engine"}
CANNOT_KNOW = """\
cannot know: clients, what was computed after they cut a stream; the engine,
what never reached it, and what it computed for clients who had gone"""
HIDDEN_AT_ZERO = frozenset({"input_cache_write_tokens", "output_reasoning_tokens"})
"""Kinds of tokens that few engines have: shown where any stage counted one."""


def closing_table(report: RunReport) -> Table:
    """A line per stage, a column per quantity, and the differences below; fits 80 columns."""
    table, shown = _table(report.rows(), report.currency)
    _add_stages(table, shown, report.currency)
    return table


def served_table(served: ServedReport, currency: str) -> Table:
    """The served model's traffic: what clients and engine counted before what the stages did."""
    table, shown = _table(served.rows(), currency)
    for name, side in served.sides().items():
        table.add_row(SIDE_TITLES[name], *(_seen(side, row) for row in shown))
        table.add_row("  cannot know", *(_unseen(side, row) for row in shown), style="dim")
    _add_stages(table, shown, currency)
    return table


def _table(rows: list[Row], currency: str) -> tuple[Table, list[Row]]:
    """An empty table with a column per quantity, and the quantities that are shown."""
    shown = [row for row in rows if row.name not in HIDDEN_AT_ZERO or any(row.at.values())]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for row in shown:
        title = (currency or "amount") if row.name == "amount_minor" else TITLES[row.name]
        table.add_column(title, justify="right", no_wrap=True)
    return table, shown


def _add_stages(table: Table, shown: list[Row], currency: str) -> None:
    """A line per stage, and the differences below."""
    for stage in STAGES:
        cells = (_cell(row, row.at.get(stage), currency) for row in shown)
        table.add_row(STAGE_TITLES[stage], *cells)
    table.add_section()
    table.add_row("difference", *(_difference(row) for row in shown))


def _seen(side: Side, row: Row) -> str:
    if row.name == "events":
        return f"{side.events:,}"
    if row.name in TOKEN_METERS:
        return f"{side.tokens.get(row.name, 0):,}"
    return f"{side.gpu_ns:,}" if row.name == "gpu_ns" and side.gpu_ns is not None else "·"


def _unseen(side: Side, row: Row) -> str:
    if row.name == "events":
        return f"{side.unseen_events:,}"
    return f"{side.unseen_tokens.get(row.name, 0):,}" if row.name in TOKEN_METERS else "·"


def show_report(console: Console, report: RunReport) -> None:
    """The tables, what was lost, doubled, held or refused, and the verdict."""
    if report.served is not None:
        _show_served(console, report.served, report.currency)
    console.print(closing_table(report))
    console.print(
        f"lost {report.lost} · doubled {report.doubled} · held hours {len(report.held_hours)}"
        f" · dead letters {len(report.dead_letters)} · invoices {report.invoices}",
        highlight=False,
    )
    _list(console, "held hours", report.held_hours)
    _list(console, "held invoices", report.held_invoices)
    _list(console, "dead letters", report.dead_letters)
    if report.why_no_model:
        console.print("[yellow]no model was served, the trace is billed alone:[/]")
        console.print(f"  {report.why_no_model}", markup=False, highlight=False, soft_wrap=True)
    if report.closes():
        console.print("[bold green]every identity closes to zero[/]")
    else:
        console.print("[bold red]something does not add up; see above[/]")


def _show_served(console: Console, served: ServedReport, currency: str) -> None:
    endings = ", ".join(f"{count} {ending}" for ending, count in sorted(served.endings.items()))
    console.print(f"[bold]{served.model}[/], served by vLLM: {endings}", highlight=False)
    console.print(served_table(served, currency))
    console.print(CANNOT_KNOW, style="dim", highlight=False)
    _list(console, "requests of which client and ledger differ", served.disagreements)
    console.print("\n[bold]trace and model together[/]")


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
