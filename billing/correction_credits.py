"""What corrections give back: on which invoices, which credit notes wait, which are issued."""

from dataclasses import dataclass

from sqlalchemy import Connection, Engine, and_, func, insert, select, update

from billing.carried_corrections import waiting_minor
from billing.correcting import split_credit
from billing.planned_invoices import ISSUED_STATES
from infra.store.tables import correction_carries, correction_credits, corrections, invoices
from schemas.billing import Invoice
from schemas.corrections import Correction
from schemas.errors import ContractError, InvoiceHeldError


@dataclass(frozen=True, slots=True)
class PlannedCreditNote:
    """An amount to credit on an issued invoice; correction and invoice name it together."""

    correction_id: str
    invoice_id: str
    stripe_invoice: str
    tenant: str
    currency: str
    period: str
    revision: int
    amount_minor: int


def planned_credit_notes(store: Engine) -> list[PlannedCreditNote]:
    """Credit notes that wait to be issued, oldest correction first.

    `period` and `revision` are the correction's; the invoice is the one that charged the amount:
    the period's own, or a later one that carried a debit of that period. `amount_minor` is above 0.
    """
    query = (
        select(
            correction_credits.c.correction_id,
            correction_credits.c.invoice_id,
            func.coalesce(invoices.c.stripe_invoice, "").label("stripe_invoice"),
            corrections.c.tenant,
            corrections.c.currency,
            corrections.c.period,
            corrections.c.revision,
            correction_credits.c.amount_minor,
        )
        .join(corrections, corrections.c.id == correction_credits.c.correction_id)
        .join(invoices, invoices.c.id == correction_credits.c.invoice_id)
        .where(correction_credits.c.state == "planned")
        .order_by(
            corrections.c.planned_at_ms,
            correction_credits.c.correction_id,
            correction_credits.c.invoice_id,
        )
    )
    with store.connect() as connection:
        return [PlannedCreditNote(*row) for row in connection.execute(query)]


def credit_note_issued(
    store: Engine, note: PlannedCreditNote, *, stripe_credit_note: str, number: str, now_ms: int
) -> None:
    """Record that a planned credit note is issued; the same again changes nothing.

    Args:
        store: The billing store.
        note: As `planned_credit_notes` gave it.
        stripe_credit_note: Its id at Stripe, confirmed to be of this amount.
        number: The number that the tenant reads.
        now_ms: When, in milliseconds since the epoch.

    Raises:
        ContractError: If there is no such credit note, or it was issued as another one.
    """
    which = and_(
        correction_credits.c.correction_id == note.correction_id,
        correction_credits.c.invoice_id == note.invoice_id,
    )
    values = {
        "state": "issued",
        "stripe_credit_note": stripe_credit_note,
        "number": number,
        "issued_at_ms": now_ms,
    }
    with store.begin() as connection:
        moved = connection.execute(
            update(correction_credits)
            .where(which, correction_credits.c.state == "planned")
            .values(values)
        )
        if moved.rowcount == 1:
            return
        issued = connection.execute(
            select(correction_credits.c.stripe_credit_note).where(which)
        ).scalar_one_or_none()
    if issued != stripe_credit_note:
        raise ContractError(
            f"credit note of correction {note.correction_id} on invoice {note.invoice_id} is issued"
            f" as {issued}, not {stripe_credit_note}"
        )


def credit(connection: Connection, invoice: Invoice, correction: Correction) -> None:
    """Plan the credit notes of a correction below zero.

    First on the invoice itself, up to what it charged for the period; then on the invoices that
    carried the period's debits. What no invoice has charged yet is carried beside those debits.

    Raises:
        InvoiceHeldError: If an invoice that carries the period's debits is not issued yet.
    """
    creditable = {invoice.id: invoice.own_minor(), **dict(_carriers(connection, invoice))}
    for invoice_id, credited_minor in _credited(connection, invoice):
        creditable[invoice_id] = creditable.get(invoice_id, 0) - credited_minor
    parts, left_minor = split_credit(-correction.total_minor, creditable)
    # The correction itself is recorded by now, and waits with its whole amount.
    waiting = waiting_minor(connection, invoice) - correction.total_minor
    if left_minor > waiting:
        raise InvoiceHeldError(
            f"correction of {invoice.tenant} {invoice.period}: {left_minor - waiting} of a"
            f" credit of {-correction.total_minor} take back what a later invoice carries: issue"
            " that first"
        )
    for invoice_id, amount_minor in parts.items():
        connection.execute(
            insert(correction_credits).values(
                correction_id=correction.id,
                invoice_id=invoice_id,
                amount_minor=amount_minor,
                state="planned",
            )
        )


def _carriers(connection: Connection, invoice: Invoice) -> list[tuple[str, int]]:
    """Issued invoices that carried debits of the invoice's period, and how much, oldest first."""
    rows = connection.execute(
        select(invoices.c.id, func.sum(correction_carries.c.amount_minor))
        .join(corrections, corrections.c.id == correction_carries.c.correction_id)
        .join(
            invoices,
            and_(
                invoices.c.tenant == corrections.c.tenant,
                invoices.c.currency == corrections.c.currency,
                invoices.c.period == correction_carries.c.period,
                invoices.c.revision == 1,
            ),
        )
        .where(
            corrections.c.tenant == invoice.tenant,
            corrections.c.currency == invoice.currency,
            corrections.c.period == invoice.period,
            invoices.c.state.in_(ISSUED_STATES),
        )
        .group_by(invoices.c.id, invoices.c.period)
        .order_by(invoices.c.period)
    ).all()
    return [(row[0], int(row[1])) for row in rows]


def _credited(connection: Connection, invoice: Invoice) -> list[tuple[str, int]]:
    """By invoice what was credited for the invoice's period, issued or not yet."""
    rows = connection.execute(
        select(correction_credits.c.invoice_id, func.sum(correction_credits.c.amount_minor))
        .join(corrections, corrections.c.id == correction_credits.c.correction_id)
        .where(
            corrections.c.tenant == invoice.tenant,
            corrections.c.currency == invoice.currency,
            corrections.c.period == invoice.period,
        )
        .group_by(correction_credits.c.invoice_id)
    ).all()
    return [(row[0], int(row[1])) for row in rows]
