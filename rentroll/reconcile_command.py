"""`rentroll reconcile`: what each stage counted of a period, and why two of them differ."""

from typing import Annotated

import typer

from rentroll.opened import endpoints_now, ledger_opened, store_opened


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    app.command(epilog="Example: [bold]rentroll reconcile --period 2026-10[/]")(reconcile)


def reconcile(
    period_name: Annotated[str, typer.Option("--period", help="The month, such as 2026-10.")],
    *,
    with_stripe: Annotated[
        bool, typer.Option("--stripe/--no-stripe", help="Hold issued invoices to Stripe's copy.")
    ] = True,
) -> None:
    """Hold ledger, roll-ups, invoices and Stripe of a month to each other, with tolerance zero.

    Events, tokens of every kind and GPU time, hour by hour and tenant by tenant. What a stage has
    less is listed with its reason and the first event ids. Ends with status 1 if a difference has
    none. Writes nothing.
    """
    from contextlib import closing, nullcontext

    from rich.console import Console

    from billing.stripe_gateway import StripeGateway
    from rentroll.archive_views import steps_bar
    from rentroll.reconcile_views import reconciliation_tables, verdict_text
    from rentroll.reconciling import reconcile as reconciled
    from schemas.periods import parse_period
    from streams.settings import StreamSettings

    period, endpoints, console = parse_period(period_name), endpoints_now(), Console()
    opened = (
        closing(StripeGateway(endpoints.stripe_api_key, endpoints.stripe_api_base))
        if with_stripe
        else nullcontext()
    )
    with (
        store_opened(endpoints) as store,
        ledger_opened(endpoints) as ledger,
        opened as gateway,
        steps_bar() as progress,
    ):
        found = reconciled(
            ledger, store, gateway, period, settings=StreamSettings(), progress=progress
        )
    for table in reconciliation_tables(found):
        console.print(table)
    console.print(verdict_text(found), soft_wrap=True)
    if found.faults():
        raise typer.Exit(1)
