"""`rentroll retention`: which months of the ledger are over, and dropping them."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from streams.retention import Month

_MIB = 2**20


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    app.command(epilog="Example: rentroll retention --apply --who ann")(retention)


def retention(
    *,
    apply: Annotated[
        bool, typer.Option("--apply", help="Drop the months that may go; else only show them.")
    ] = False,
    who: Annotated[
        str, typer.Option("--who", help="Who drops them; kept, and needed with --apply.")
    ] = "",
) -> None:
    """Show which months of the ledger are past their lifetime, and drop those that nobody needs.

    A month stays while an hour of it is not published, an invoice of it is not at its end, or a
    source or an engine that began in it tells of a month that is kept. The archive is not touched.
    """
    from rich.console import Console

    from rentroll.close_commands import ledger_and_store
    from schemas.clock import SystemClock
    from streams.retention import drop_months, plan_retention

    if apply and not who.strip():
        raise typer.BadParameter("--apply needs --who")
    console, clock = Console(), SystemClock()
    with ledger_and_store() as (client, store):
        months = plan_retention(client, store, clock=clock)
        console.print(_table(months))
        going = [one for one in months if one.is_over and not one.refusals]
        if apply:
            drop_months(client, store, going, decided_by=who, clock=clock)
            console.print(f"{len(going)} dropped")


def _table(months: "list[Month]") -> "Table":
    from rich.table import Table

    table = Table(title="Months of the ledger", title_justify="left")
    for heading in ("Month", "Tables", "Rows", "MiB", "State"):
        table.add_column(heading, justify="right" if heading in ("Rows", "MiB") else "left")
    for one in months:
        state = "kept"
        if one.is_over:
            state = f"over, but {'; '.join(one.refusals)}" if one.refusals else "may be dropped"
        table.add_row(
            one.period.name,
            ", ".join(one.tables),
            f"{one.rows:,}",
            f"{one.stored_bytes / _MIB:,.1f}",
            state,
            style="yellow" if one.is_over else "",
        )
    return table
