"""`rentroll invoice`: issue a month's invoices through Stripe, list them, show one."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from sqlalchemy import Engine

    from billing.crediting import Ending
    from billing.invoice_run import RunResult
    from infra.endpoints import Endpoints
    from schemas.clock import Clock
    from schemas.corrections import Correction
    from schemas.periods import Period

invoice = typer.Typer(name="invoice", no_args_is_help=True, help="Issue, list and show invoices.")


class Settle(StrEnum):
    """How money that was paid goes back."""

    refund = "refund"
    balance = "balance"
    outside = "outside"


InvoiceArgument = Annotated[
    str,
    typer.Argument(metavar="ID", help="Its id, the beginning of its id, or its number at Stripe."),
]


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    app.add_typer(invoice)


@invoice.command(name="run")
def run(
    period_name: Annotated[
        str, typer.Option("--period", help="The month that is billed, such as 2026-10.")
    ],
    *,
    book_name: Annotated[
        str | None, typer.Option("--book", help="Name or hash of a price book; else the last.")
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=64, help="Invoices at a time.")
    ] = 8,
) -> None:
    """Rate a complete month and bring every tenant's invoice to its Stripe invoice, once.

    Safe to repeat and safe to kill: run again and it goes on where it was. Ends with status 1
    if an invoice is held or Stripe did not take one; the table says why.

    Example: [bold]rentroll invoice run --period 2026-10[/]
    """
    from rich.console import Console

    from billing.invoice_records import list_invoices
    from rentroll.invoice_views import invoices_table
    from schemas.clock import SystemClock
    from schemas.errors import InvoiceHeldError
    from schemas.periods import parse_period

    period, clock, console = parse_period(period_name), SystemClock(), Console()
    endpoints = _endpoints()
    conflicts = ""
    corrected: tuple[Correction, ...] = ()
    with _store(endpoints) as store:
        try:
            corrected = _plan(endpoints, store, period, book_name, clock)
        except InvoiceHeldError as error:
            # Other usage or prices than an invoice that was begun; all others are planned by then.
            conflicts = str(error)
        result = _issue(endpoints, store, period, clock=clock, workers=workers, console=console)
        console.print(invoices_table(list_invoices(store, period.name)))
    _say(result, conflicts, console)
    if corrected:
        console.print(
            f"{len(corrected)} corrections of issued invoices recorded now:"
            f" rentroll corrections list --period {period.name}"
        )
    if conflicts or not result.is_complete:
        raise typer.Exit(1)


@invoice.command(name="list")
def show_list(
    period_name: Annotated[
        str | None, typer.Option("--period", help="Only this month; else all.")
    ] = None,
) -> None:
    """Show where each invoice stands.

    Example: [bold]rentroll invoice list --period 2026-10[/]
    """
    from rich.console import Console

    from billing.invoice_records import list_invoices
    from rentroll.invoice_views import invoices_table
    from schemas.periods import parse_period

    name = None if period_name is None else parse_period(period_name).name
    with _store(_endpoints()) as store:
        Console().print(invoices_table(list_invoices(store, name)))


@invoice.command(name="show")
def show(
    wanted: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="Its id, the beginning of its id, or its number at Stripe."
        ),
    ],
) -> None:
    """Show one invoice: its state, its lines, and every call that was made to Stripe for it.

    Example: [bold]rentroll invoice show 5f2a81c09b3e[/]
    """
    from rich.console import Console

    from billing.invoice_records import load_invoice
    from rentroll.invoice_views import invoice_tables

    console = Console()
    with _store(_endpoints()) as store:
        for table in invoice_tables(*load_invoice(store, wanted)):
            console.print(table)


@invoice.command(name="void")
def void(wanted: InvoiceArgument) -> None:
    """Cancel an issued invoice that is not paid; it asks for nothing any more.

    Example: [bold]rentroll invoice void 5f2a81c09b3e[/]
    """
    _end(wanted, "void")


@invoice.command(name="uncollectible")
def uncollectible(wanted: InvoiceArgument) -> None:
    """Write an issued invoice off; it may still be paid, and its tenant stays suspended.

    Example: [bold]rentroll invoice uncollectible 5f2a81c09b3e[/]
    """
    _end(wanted, "uncollectible")


@invoice.command(name="refund")
def refund(
    wanted: InvoiceArgument,
    *,
    amount_minor: Annotated[
        int, typer.Option("--amount-minor", min=1, help="In minor units, such as cents.")
    ],
    reference: Annotated[
        str, typer.Option("--reference", help="Names it: repeated, it is the same refund.")
    ],
    reason: Annotated[str, typer.Option("--reason", help="What the tenant reads.")],
    settle: Annotated[
        Settle, typer.Option("--settle", help="How what was paid goes back.")
    ] = Settle.refund,
) -> None:
    """Issue a credit note: less to pay on an open invoice, money back on a paid one.

    Example: [bold]rentroll invoice refund 5f2a81c09b3e --amount-minor 500 --reference T-17 --reason
    "outage of 3 October"[/]
    """
    from rich.console import Console

    from billing.crediting import CreditLine, CreditNote, issue_credit_note
    from billing.invoice_records import load_invoice
    from billing.stripe_gateway import StripeGateway
    from schemas.clock import SystemClock

    endpoints = _endpoints()
    with (
        _store(endpoints) as store,
        closing(StripeGateway(endpoints.stripe_api_key, endpoints.stripe_api_base)) as gateway,
    ):
        record, _, _ = load_invoice(store, wanted)
        lines = (CreditLine(reason, amount_minor),)
        note = CreditNote(record.id, reference, lines, settle.value)
        made = issue_credit_note(store, gateway, SystemClock(), note)
    Console(highlight=False).print(f"{made}: {amount_minor} minor units off {record.number}")


def _end(wanted: str, ending: "Ending") -> None:
    from rich.console import Console

    from billing.crediting import end_invoice
    from billing.invoice_records import load_invoice
    from billing.stripe_gateway import StripeGateway
    from schemas.clock import SystemClock

    endpoints = _endpoints()
    with (
        _store(endpoints) as store,
        closing(StripeGateway(endpoints.stripe_api_key, endpoints.stripe_api_base)) as gateway,
    ):
        record, _, _ = load_invoice(store, wanted)
        end_invoice(store, gateway, SystemClock(), record.id, ending)
        record, _, _ = load_invoice(store, record.id)
    Console(highlight=False).print(f"{record.number} of {record.tenant} is {record.state}")


def _plan(
    endpoints: "Endpoints",
    store: "Engine",
    period: "Period",
    book_name: str | None,
    clock: "Clock",
) -> "tuple[Correction, ...]":
    from billing.planning import plan_period
    from billing.price_books import load_book
    from billing.settings import BillingSettings
    from infra.clickhouse.client import connect

    book = load_book(store, book_name)
    with closing(connect(endpoints.clickhouse_url, endpoints.clickhouse_database)) as ledger:
        result = plan_period(ledger, store, period, book, clock=clock, settings=BillingSettings())
    return result.corrections


def _issue(
    endpoints: "Endpoints",
    store: "Engine",
    period: "Period",
    *,
    clock: "Clock",
    workers: int,
    console: "Console",
) -> "RunResult":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from billing.invoice_run import run_invoices
    from billing.stripe_gateway import StripeGateway

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        closing(StripeGateway(endpoints.stripe_api_key, endpoints.stripe_api_base)) as gateway,
        Progress(*columns, console=console, transient=True) as progress,
    ):
        task = progress.add_task("issuing invoices", total=None)
        return run_invoices(
            store,
            gateway,
            period=period,
            clock=clock,
            workers=workers,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )


def _say(result: "RunResult", conflicts: str, console: "Console") -> None:
    console.print(
        f"{len(result.issued)} issued now, {len(result.held)} held, {len(result.failed)} not done"
    )
    if conflicts:
        console.print(f"[red]begun before from other usage or prices:[/] {conflicts}")
    if result.stopped:
        console.print(f"[red]the run stopped:[/] {result.stopped}")
    for invoice_id, reason in result.failed.items():
        console.print(f"[red]{invoice_id[:12]}[/] {reason}", soft_wrap=True)


def _endpoints() -> "Endpoints":
    from infra.endpoints import resolve
    from infra.settings import InfraSettings

    return resolve(InfraSettings())


@contextmanager
def _store(endpoints: "Endpoints") -> "Iterator[Engine]":
    from infra.store.engine import open_store

    store = open_store(endpoints.store_url)
    try:
        yield store
    finally:
        store.dispose()
