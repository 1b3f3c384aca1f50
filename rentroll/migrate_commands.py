"""`rentroll migrate`: bring the ledger and the billing store to the newest schema."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    app.command(name="migrate")(migrate)


def migrate(
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be applied.")
    ] = False,
) -> None:
    """Bring the ClickHouse ledger and the billing store to the newest schema.

    Safe to repeat: what was applied is left alone, and a run that was cut off is continued.

    Example: [bold]rentroll migrate --dry-run[/]
    """
    from rich.console import Console

    from infra.clickhouse import migrate as ledger
    from infra.endpoints import resolve
    from infra.settings import InfraSettings
    from infra.store import migrate as store

    settings = InfraSettings()
    endpoints = resolve(settings)
    steps = [("billing store", step, "") for step in store.pending(endpoints.store_url)]
    if not dry_run:
        store.upgrade(endpoints.store_url)
    steps += [
        ("ledger", f"{one.name} ({len(one.statements)} statements)", one.checksum[:12])
        for one in ledger.migrate(
            endpoints.clickhouse_url,
            endpoints.clickhouse_database,
            dry_run=dry_run,
            cluster=settings.clickhouse_cluster,
        )
    ]
    console = Console()
    if not steps:
        console.print("Ledger and billing store are at the newest schema.")
        return
    console.print(_table(steps, "would be applied" if dry_run else "applied"))


def _table(steps: list[tuple[str, str, str]], what: str) -> "Table":
    from rich.table import Table

    table = Table(title=f"Migrations {what}", title_justify="left")
    for heading in ("Where", "Migration", "SHA-256"):
        table.add_column(heading)
    for step in steps:
        table.add_row(*step)
    return table
