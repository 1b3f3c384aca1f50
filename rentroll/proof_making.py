"""Makes the proof of an invoice: its hours from billing's side, their events from the stream's."""

from sqlalchemy import Engine

from billing.usage_reader import read_hours_of
from infra.clickhouse.client import Client
from schemas.billing import Invoice
from schemas.errors import ConservationError, ContractError
from schemas.ids import parse_ms
from schemas.periods import Period, hour_text, parse_period
from schemas.proofs import PROOF_FORMAT, HourContents, PeriodProof
from schemas.units import MS_PER_S
from streams.proven_hashes import proven_hashes
from streams.settings import StreamSettings


def make_proof(
    ledger: Client,
    store: Engine,
    invoice: Invoice,
    *,
    only: Period | None,
    settings: StreamSettings,
) -> PeriodProof:
    """The proof of an invoice; it is checked before it is handed out.

    Args:
        ledger: The ledger.
        store: The billing store.
        invoice: Any invoice, planned or issued.
        only: Lists the events of this hour alone; None: of every hour.
        settings: Bounds of reading.

    Raises:
        ConservationError: If the ledger no longer holds what the invoice was made from.
        ContractError: If the tenant used nothing in the one hour.
    """
    period = parse_period(invoice.period)
    hours = read_hours_of(ledger, period, invoice)
    runs = [
        run.run_id
        for run in invoice.runs
        if only is None or parse_ms(run.hour) == int(only.start.timestamp()) * MS_PER_S
    ]
    if only is not None and not runs:
        raise ContractError(f"invoice {invoice.id[:12]} has no usage in {only.name}")
    hashes = proven_hashes(
        ledger, store, period, tenant=invoice.tenant, runs=runs, settings=settings
    )
    made = PeriodProof(
        format=PROOF_FORMAT,
        tenant=invoice.tenant,
        period=invoice.period,
        invoice=invoice.id,
        events_root=invoice.events_root,
        hours=tuple(hours),
        contents=tuple(
            HourContents(hour=hour_text(hour_ms), hashes=listed)
            for hour_ms, listed in sorted(hashes.items())
        ),
    )
    faults = made.faults(invoice.events_root)
    if len(made.contents) != len(runs):
        faults.append(f"{len(runs) - len(made.contents)} hours have no events in the ledger")
    if faults:
        raise ConservationError(f"invoice {invoice.id[:12]}: {'; '.join(faults)}")
    return made
