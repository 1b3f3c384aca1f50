"""`rentroll close`: publish whole hours, or say why they wait."""

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
    wanted = wanted_hours(period, hour)
    from rich.console import Console

    from infra.logs import start_logs
    from infra.settings import InfraSettings
    from rentroll.close_views import closing_report, closing_table, closing_totals, log_closing
    from schemas.clock import SystemClock
    from streams.close import close_hours

    console = Console()
    start_logs(InfraSettings(), unset="text", quiet=InfraSettings().log_format is None)
    with ledger_and_store() as (client, store), _progress(console) as progress:
        closing = close_hours(client, store, wanted, clock=SystemClock(), progress=progress)
    log_closing(closing, wanted)
    if report is not None:
        report.write_text(json.dumps(closing_report(closing, wanted), indent=2) + "\n")
    console.print(closing_table(closing, wanted))
    console.print(closing_totals(closing))
    for source in closing.sources:
        for alarm in source.clock_alarms:
            console.print(f"clock of host {source.host}: {alarm}", style="red", markup=False)
    if closing.held():
        raise typer.Exit(1)


def wanted_hours(period: str | None, hour: str | None) -> "Period":
    """The hours that were asked for; exactly one of the two options is given."""
    from schemas.periods import parse_hour, parse_period

    if (period is None) == (hour is None):
        raise typer.BadParameter("give either --period 2026-10 or --hour 2026-10-01T00")
    return parse_period(period) if period is not None else parse_hour(hour or "")


@contextmanager
def ledger_and_store() -> Iterator[tuple["Client", "Engine"]]:
    """The ledger and the billing store, as the settings or the local stack name them."""
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
