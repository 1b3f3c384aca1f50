"""`rentroll proof`: show a tenant, or a stranger, which events an invoice was made from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rentroll.opened import endpoints_now, ledger_opened, store_opened

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from schemas.billing import Invoice

proof = typer.Typer(
    name="proof", no_args_is_help=True, help="Prove which events an invoice was made from."
)


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    app.add_typer(proof)


@proof.command(name="make")
def make(
    invoice_id: Annotated[
        str, typer.Argument(metavar="ID", help="The invoice, by its id or the beginning of it.")
    ],
    output: Annotated[Path, typer.Option("--output", help="The file that is written.")],
    *,
    hour: Annotated[
        str,
        typer.Option(
            "--hour", metavar="YYYY-MM-DDTHH", help="List the events of this hour only; else all."
        ),
    ] = "",
) -> None:
    """Write the proof of an invoice: its hours, and the content hashes of the events in them.

    A stranger checks it with docs/verify.py against the events root on the invoice.

    Example: [bold]rentroll proof make 5f2a81c09b3e --output acme-2026-10.proof.json[/]
    """
    from rich.console import Console

    from rentroll.proof_making import make_proof
    from schemas.periods import parse_hour
    from streams.settings import StreamSettings

    only = parse_hour(hour) if hour else None
    endpoints, console = endpoints_now(), Console(stderr=True)
    with store_opened(endpoints) as store, ledger_opened(endpoints) as ledger:
        invoice = _invoice(store, invoice_id)
        with console.status(f"reading the events of {invoice.tenant} in {invoice.period}"):
            made = make_proof(ledger, store, invoice, only=only, settings=StreamSettings())
    output.write_text(made.canonical_json() + "\n")
    count = sum(len(content.hashes) for content in made.contents)
    typer.echo(
        f"{output}: {count:,} events in {len(made.contents)} of {len(made.hours)} hours with"
        f" usage; events root {made.events_root}"
    )


@proof.command(name="verify")
def verify(
    file: Annotated[Path, typer.Argument(metavar="PROOF", help="What `proof make` wrote.")],
    events: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[EVENT]...", help="Files with one event each, as in the log."),
    ] = None,
    *,
    root: Annotated[
        str,
        typer.Option("--root", help="Events root that it must have; else its invoice's."),
    ] = "",
) -> None:
    """Check a proof against the invoice's events root, and that given events are in it.

    Ends with status 1 if something does not hold, and says what.

    Example: [bold]rentroll proof verify acme-2026-10.proof.json event.json[/]
    """
    from pydantic import ValidationError

    from schemas.errors import ContractError
    from schemas.proofs import PeriodProof

    try:
        given = PeriodProof.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise ContractError(f"{file} is no proof: {error}") from error
    wanted = root or _root_in_store(given.invoice)
    found = given.faults(wanted, [one.read_bytes().rstrip(b"\n") for one in events or ()])
    if found:
        raise ContractError(f"{file} does not hold: " + "; ".join(found))
    typer.echo(f"{file} holds: {given.tenant} {given.period}, invoice {given.invoice[:12]}")


def _root_in_store(invoice_id: str) -> str:
    with store_opened(endpoints_now()) as store:
        return _invoice(store, invoice_id).events_root


def _invoice(store: "Engine", wanted: str) -> "Invoice":
    from billing.invoice_records import load_invoice

    return load_invoice(store, wanted)[1]
