"""Loads what a tenant's statement says: its invoice as stored, its days, its names, its prices."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Engine, select

from billing.correction_records import CorrectionRecord, list_corrections
from billing.price_books import load_book
from billing.usage_reader import read_days
from infra.clickhouse.client import Client
from infra.decision_kinds import DECLARE_LOSS
from infra.store.decisions import decisions_after
from infra.store.runs import runs_between
from infra.store.tables import invoices, tenants
from schemas.billing import Invoice, Statement
from schemas.errors import ContractError
from schemas.periods import Period
from schemas.prices import PriceBook
from schemas.units import MS_PER_S

DRAFT_DIGITS = 8


@dataclass(frozen=True, slots=True)
class StatementSource:
    """A statement with what its figures need to be explained."""

    statement: Statement
    customer_name: str
    customer_email: str
    hold_reason: str
    book: PriceBook
    losses: tuple[str, ...] = ()
    corrections: tuple[CorrectionRecord, ...] = ()
    """Of this period, since its invoice was issued."""


def load_statement(
    ledger: Client, store: Engine, *, tenant: str, period: Period
) -> StatementSource:
    """The latest invoice of a tenant and period, with its days read from the runs it names.

    Until Stripe has given a number, the statement is numbered `DRAFT-` and the start of its id.

    Raises:
        ContractError: If there is no invoice for the tenant and period.
        ConservationError: If the ledger no longer holds what the invoice was made from.
    """
    query = (
        select(invoices, tenants.c.name, tenants.c.email)
        .join(tenants, tenants.c.tenant == invoices.c.tenant)
        .where(invoices.c.tenant == tenant, invoices.c.period == period.name)
        .order_by(invoices.c.revision.desc(), invoices.c.planned_at_ms.desc(), invoices.c.id)
    )
    with store.connect() as connection:
        row = connection.execute(query).first()
    if row is None:
        raise ContractError(
            f"no invoice of tenant {tenant} in {period.name}; `rentroll invoice run --period"
            f" {period.name}` makes them, `rentroll invoice list` shows them"
        )
    invoice = Invoice.model_validate_json(row.body)
    statement = Statement(
        tenant=tenant,
        period=period.name,
        state=row.state,
        number=row.number or f"DRAFT-{invoice.id[:DRAFT_DIGITS].upper()}",
        invoice=invoice,
        days=tuple(read_days(ledger, period, invoice)),
    )
    return StatementSource(
        statement=statement,
        customer_name=row.name,
        customer_email=row.email,
        hold_reason=row.hold_reason,
        book=load_book(store, invoice.price_book_sha256),
        losses=tuple(declared_losses(store, period, invoice)),
        corrections=tuple(list_corrections(store, period=period.name, tenant=tenant)),
    )


def declared_losses(store: Engine, period: Period, invoice: Invoice) -> Iterator[str]:
    """Losses that were declared since the period began and counted when its runs were made.

    One that was declared before is about events before: a source sends its events in order.
    """
    named = {run.run_id for run in invoice.runs}
    counted = max(
        (
            run.header.decisions_position
            for run in runs_between(store, period.start, period.end)
            if run.header.run_id in named
        ),
        default=0,
    )
    began_ms = int(period.start.timestamp()) * MS_PER_S
    for one in decisions_after(store, 0):
        if one.kind == DECLARE_LOSS and one.position <= counted and one.decided_at_ms >= began_ms:
            yield f"decision {one.position} of {one.decided_by}: {one.subject}: {one.reason}"
