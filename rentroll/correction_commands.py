"""`rentroll corrections`: what months that were invoiced are corrected by, planned and shown."""

from typing import Annotated

import typer

from rentroll.opened import endpoints_now, ledger_opened, store_opened

corrections = typer.Typer(
    name="corrections",
    no_args_is_help=True,
    help="Correct months that were invoiced before their usage was complete.",
)

PeriodOption = Annotated[str, typer.Option("--period", help="The invoiced month, such as 2026-10.")]


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    app.add_typer(corrections)


@corrections.command(name="plan")
def plan(
    period_name: PeriodOption,
    *,
    book_name: Annotated[
        str | None,
        typer.Option("--book", help="Reprice by this book, a name or hash; else as invoiced."),
    ] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only this tenant.")] = None,
) -> None:
    """Rate an invoiced month again, whole, and record what differs from all that was charged.

    Debits go on each tenant's next invoice, credits become credit notes. Safe to repeat: the same
    usage and prices again change nothing. Ends with status 1 if a tenant could not be corrected.

    Example: [bold]rentroll corrections plan --period 2026-10[/]
    """
    from rich.console import Console

    from billing.correction_records import list_corrections
    from billing.correction_run import CorrectionRun
    from billing.planning import refuse_unready_period
    from billing.price_books import load_book
    from billing.settings import BillingSettings
    from rentroll.correction_views import corrections_table
    from schemas.clock import SystemClock
    from schemas.periods import parse_period

    period, console = parse_period(period_name), Console()
    endpoints = endpoints_now()
    with ledger_opened(endpoints) as ledger, store_opened(endpoints) as store:
        refuse_unready_period(store, period)
        book = None if book_name is None else load_book(store, book_name)
        run = CorrectionRun(ledger, store, SystemClock(), BillingSettings())
        with console.status(f"rating {period.name} again"):
            done = run.correct(period, None if tenant is None else {tenant}, book=book)
        console.print(corrections_table(list_corrections(store, period=period.name)))
    console.print(f"{len(done.corrections)} corrections recorded now")
    for problem in done.problems:
        console.print(f"[red]not corrected:[/] {problem}", soft_wrap=True)
    if done.problems:
        raise typer.Exit(1)


@corrections.command(name="credit")
def credit() -> None:
    """Issue the credit notes that corrections planned, at Stripe, each once.

    On an open invoice less remains to be paid; what was paid already goes to the tenant's balance.
    Safe to repeat. Ends with status 1 if one could not be issued.

    Example: [bold]rentroll corrections credit[/]
    """
    from contextlib import closing

    from rich.console import Console

    from billing.giving_back import give_back
    from billing.stripe_gateway import StripeGateway
    from schemas.clock import SystemClock

    console, endpoints = Console(highlight=False), endpoints_now()
    with (
        store_opened(endpoints) as store,
        closing(StripeGateway(endpoints.stripe_api_key, endpoints.stripe_api_base)) as gateway,
        console.status("issuing credit notes"),
    ):
        done = give_back(store, gateway, SystemClock())
    for note, made in done.issued:
        console.print(f"{made}: {note.amount_minor} minor units back to {note.tenant}")
    console.print(f"{len(done.issued)} credit notes issued now")
    for problem in done.problems:
        console.print(f"[red]not issued:[/] {problem}", soft_wrap=True)
    if done.problems:
        raise typer.Exit(1)


@corrections.command(name="list")
def show_list(
    period_name: Annotated[
        str | None, typer.Option("--period", help="Only of this month; else all.")
    ] = None,
    *,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only this tenant.")] = None,
) -> None:
    """Show every correction: its amount, and which invoice charges or gives back what.

    Example: [bold]rentroll corrections list --period 2026-10[/]
    """
    from rich.console import Console

    from billing.correction_records import list_corrections
    from rentroll.correction_views import corrections_table
    from schemas.periods import parse_period

    name = None if period_name is None else parse_period(period_name).name
    with store_opened(endpoints_now()) as store:
        Console().print(corrections_table(list_corrections(store, period=name, tenant=tenant)))


@corrections.command(name="show")
def show(
    wanted: Annotated[
        str, typer.Argument(metavar="ID", help="Its id, or the beginning of its id.")
    ],
) -> None:
    """Show one correction line by line: what was charged, what it is rated at now.

    Example: [bold]rentroll corrections show 5f2a81c09b3e[/]
    """
    from rich.console import Console

    from billing.correction_records import load_correction
    from rentroll.correction_views import correction_tables

    console = Console()
    with store_opened(endpoints_now()) as store:
        for table in correction_tables(load_correction(store, wanted)):
            console.print(table)
