"""`rentroll close` and `rentroll completeness`: publish whole hours, or say what is missing."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from sqlalchemy import Engine

    from infra.clickhouse.client import Client
    from schemas.periods import Period
    from streams.close import Progress

PeriodOption = Annotated[
    str | None, typer.Option("--period", metavar="YYYY-MM", help="Every hour of this month, UTC.")
]
HourOption = Annotated[
    str | None,
    typer.Option("--hour", metavar="YYYY-MM-DDTHH", help="Only this hour, UTC."),
]


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    app.command(epilog="Example: [bold]rentroll close --period 2026-10[/]")(close)
    app.command(epilog="Example: [bold]rentroll completeness --period 2026-10[/]")(completeness)


def close(
    period: PeriodOption = None,
    hour: HourOption = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write every verdict as JSON.")
    ] = None,
) -> None:
    """Decide hours: publish the complete ones, hold the others and say why.

    Safe to repeat: an hour whose events did not change publishes nothing, late events re-close
    their own hour, a held hour is looked at again. Ends with status 1 if an hour is held.
    """
    wanted = _wanted(period, hour)
    from rich.console import Console

    from infra.logs import start_logs
    from infra.settings import InfraSettings
    from rentroll.close_views import closing_report, closing_table, closing_totals, log_closing
    from schemas.clock import SystemClock
    from streams.close import close_hours

    console = Console()
    start_logs(InfraSettings(), unset="text", quiet=InfraSettings().log_format is None)
    with _ledger_and_store() as (client, store), _progress(console) as progress:
        closing = close_hours(client, store, wanted, clock=SystemClock(), progress=progress)
    log_closing(closing, wanted)
    if report is not None:
        report.write_text(json.dumps(closing_report(closing, wanted), indent=2) + "\n")
    console.print(closing_table(closing, wanted))
    console.print(closing_totals(closing))
    if closing.held():
        raise typer.Exit(1)


def completeness(period: PeriodOption = None, hour: HourOption = None) -> None:
    """Show of every source what is proven: sequences, holes, signed ranges, GPU time lines.

    Looks only: nothing is decided or published.
    """
    wanted = _wanted(period, hour)
    from rich.console import Console

    from rentroll.close_views import engines_table, problems_text, sources_table
    from streams.close import prove_sources

    console = Console()
    with _ledger_and_store() as (client, store), console.status("reading the ledger"):
        sources = prove_sources(client, store, wanted)
    console.print(sources_table(sources, wanted))
    console.print(engines_table(sources))
    problems = problems_text(sources)
    if problems:
        console.print(problems)


def _wanted(period: str | None, hour: str | None) -> "Period":
    """The hours that were asked for; exactly one of the two options is given."""
    from schemas.periods import parse_hour, parse_period

    if (period is None) == (hour is None):
        raise typer.BadParameter("give either --period 2026-10 or --hour 2026-10-01T00")
    return parse_period(period) if period is not None else parse_hour(hour or "")


@contextmanager
def _ledger_and_store() -> Iterator[tuple["Client", "Engine"]]:
    from infra.clickhouse.client import connect
    from infra.endpoints import resolve
    from infra.settings import InfraSettings
    from infra.store.engine import open_store

    endpoints = resolve(InfraSettings())
    client = connect(endpoints.clickhouse_url, endpoints.clickhouse_database)
    store = open_store(endpoints.store_url)
    try:
        yield client, store
    finally:
        store.dispose()
        client.close()


@contextmanager
def _progress(console: "Console") -> Iterator["Progress"]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("sources", total=None)

        def show(step: str, decided: int, hours: int) -> None:
            bar.update(task, description=step, completed=decided, total=hours)

        yield show
