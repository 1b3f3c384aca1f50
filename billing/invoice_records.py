"""Reads invoices back from the billing store: where each stands, and what Stripe was told."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, Row, select

from billing.journal import Call, calls_of, customer_job
from infra.store.tables import invoices
from schemas.billing import Invoice
from schemas.errors import ContractError

ID_PREFIX_MIN = 6
"""Fewer hex digits than this are not taken for the beginning of an id."""


@dataclass(frozen=True, slots=True)
class InvoiceRecord:
    """One invoice as a list shows it."""

    id: str
    tenant: str
    period: str
    revision: int
    currency: str
    state: str
    total_minor: int
    number: str
    stripe_invoice: str
    stripe_status: str
    hosted_url: str
    hold_reason: str


def list_invoices(store: Engine, period: str | None = None) -> list[InvoiceRecord]:
    """All invoices, or a period's, by period and tenant."""
    query = select(invoices).order_by(
        invoices.c.period, invoices.c.tenant, invoices.c.currency, invoices.c.revision
    )
    if period is not None:
        query = query.where(invoices.c.period == period)
    with store.connect() as connection:
        return [_record(row) for row in connection.execute(query)]


def load_invoice(store: Engine, wanted: str) -> tuple[InvoiceRecord, Invoice, list[Call]]:
    """An invoice by its id, the beginning of its id, or its number at Stripe; with its journal.

    Raises:
        ContractError: If there is none, or several.
    """
    row = invoice_row(store, wanted)
    record = _record(row)
    calls = [*calls_of(store, customer_job(record.tenant)), *calls_of(store, record.id)]
    return record, Invoice.model_validate_json(row.body), calls


def invoice_row(store: Engine, wanted: str) -> Row[Any]:
    """An invoice as it lies in the store, by its id, the beginning of it, or its Stripe number.

    Raises:
        ContractError: If there is none, or several.
    """
    fits = (invoices.c.id == wanted) | (invoices.c.number == wanted)
    if len(wanted) >= ID_PREFIX_MIN:
        fits = fits | invoices.c.id.startswith(wanted, autoescape=True)
    with store.connect() as connection:
        rows = connection.execute(select(invoices).where(fits)).all()
    if len(rows) != 1:
        raise ContractError(f"{len(rows)} invoices fit {wanted!r}; `rentroll invoice list`")
    return rows[0]


def _record(row: Row[tuple[object, ...]]) -> InvoiceRecord:
    return InvoiceRecord(
        id=row.id,
        tenant=row.tenant,
        period=row.period,
        revision=row.revision,
        currency=row.currency,
        state=row.state,
        total_minor=row.total_minor,
        number=row.number or "",
        stripe_invoice=row.stripe_invoice or "",
        stripe_status=row.stripe_status or "",
        hosted_url=row.hosted_url or "",
        hold_reason=row.hold_reason,
    )
