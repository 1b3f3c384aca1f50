"""`rentroll audit`: derive an invoice again from its events, and name the first difference."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from rentroll.opened import endpoints_now, ledger_opened, store_opened

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from billing.rederiving import StoredInvoice
    from infra.endpoints import Endpoints
    from rentroll.invoice_audit import Audit, Progress
    from streams.replay_reading import ReplaySource
    from streams.settings import StreamSettings

audit = typer.Typer(
    name="audit", no_args_is_help=True, help="Derive what was billed again, byte for byte."
)


class Witness(StrEnum):
    """Where the events of an audit are read."""

    LEDGER = "ledger"
    ARCHIVE = "archive"
    KAFKA = "kafka"


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    audit.callback()(lambda: None)
    app.add_typer(audit)


@audit.command(name="invoice")
def audit_invoice(
    wanted: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="Its id, the beginning of it, or its number at Stripe; with --period, a tenant.",
        ),
    ],
    *,
    period_name: Annotated[
        str, typer.Option("--period", help="The month, such as 2026-10, if ID is a tenant.")
    ] = "",
    witness: Annotated[
        Witness,
        typer.Option(
            "--from",
            help="Read the events in the ledger, or replay the records of the archive or of Kafka"
            " into a scratch database: slower, and names the event that was changed.",
        ),
    ] = Witness.LEDGER,
) -> None:
    """Derive an invoice again, byte for byte, or name the first thing that differs.

    The events of its hours are folded into rows as closing did, rated with the book that it names,
    rounded, written. Compared on the way: each run's digest, its rows, the leaves and the root of
    its proof, the book's hash, the versions of the code, every line, the bytes and the id. Ends
    with status 1 at a difference. Writes nothing.

    Example: [bold]rentroll audit invoice 5f2a81c09b3e --from archive[/]
    """
    from rich.console import Console

    from billing.rederiving import invoice_of_period, stored_invoice
    from rentroll.archive_views import steps_bar
    from rentroll.audit_views import audit_text
    from schemas.periods import parse_period

    endpoints = endpoints_now()
    with store_opened(endpoints) as store:
        if period_name:
            wanted = invoice_of_period(store, wanted, parse_period(period_name).name)
        stored = stored_invoice(store, wanted)
        with steps_bar() as progress:
            audited = _audited(endpoints, store, stored, witness, progress)
    Console().print(audit_text(audited, witness.value), soft_wrap=True)
    if audited.difference is not None:
        raise typer.Exit(1)


def _audited(
    endpoints: "Endpoints",
    store: "Engine",
    stored: "StoredInvoice",
    witness: Witness,
    progress: "Progress",
) -> "Audit":
    from infra.clickhouse.client import connect
    from rentroll.invoice_audit import audit_from_ledger, audit_from_log
    from streams.replay import Replay, ReplayTarget
    from streams.settings import StreamSettings

    settings = StreamSettings()
    if witness is Witness.LEDGER:
        with ledger_opened(endpoints) as ledger:
            return audit_from_ledger(ledger, store, stored, settings=settings, progress=progress)
    database = endpoints.clickhouse_database
    scratch = f"{database}_audit_{stored.id[:12]}"
    target = ReplayTarget(endpoints.clickhouse_url, scratch, database)
    replay = Replay(target, store, settings, progress)
    replay.prepare()
    try:
        with connect(endpoints.clickhouse_url, scratch) as client:
            return audit_from_log(
                replay, client, _source(endpoints, settings, witness), store, stored
            )
    finally:
        replay.drop()


def _source(endpoints: "Endpoints", settings: "StreamSettings", witness: Witness) -> "ReplaySource":
    from rentroll.replay_commands import archive_source, log_source

    return (
        archive_source(settings) if witness is Witness.ARCHIVE else log_source(endpoints, settings)
    )
