"""Planned invoices in the billing store: one row per tenant, period, currency and revision."""

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ColumnElement, Connection, Engine, and_, exists, insert, or_, select, update

from billing.carried_corrections import carry
from billing.invoicing import carrying, charges_sha256
from billing.settings import BillingSettings
from infra.store.engine import take_turns
from infra.store.tables import invoices, periods, stripe_calls, tenants
from schemas.billing import Invoice, UnpricedUsage
from schemas.errors import InvoiceHeldError
from schemas.periods import Period

Change = Literal["new", "unchanged", "replaced", "late"]
"""`late`: issued before, and its usage or prices have changed since."""
ISSUED_STATES = ("issued", "paid", "uncollectible")
"""What a tenant has received: it is corrected, and never replaced."""
USAGE_IS_GONE = "none of the usage that it was planned from is in force any more"


@dataclass(frozen=True, slots=True)
class Draft:
    """An invoice and why it may not go out yet, if so; with the usage that no price covers."""

    invoice: Invoice
    hold_reason: str
    unpriced: tuple[UnpricedUsage, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedInvoice:
    """One tenant's invoice; planned where `hold_reason` is empty, else held for it."""

    invoice: Invoice
    hold_reason: str
    unpriced: tuple[UnpricedUsage, ...]
    change: Change


def write_draft(
    store: Engine, draft: Draft, *, settings: BillingSettings, now_ms: int
) -> PlannedInvoice:
    """Write an invoice row; creates its tenant where there is none.

    The same invoice again changes nothing. A row that is still planned or held, that no runner
    works on and for which Stripe was never called, is replaced; new or replaced, it carries the
    corrections that wait for an invoice. A row further on stays: unchanged if it charges the same,
    `late` if it was issued and would charge otherwise now.

    Raises:
        InvoiceHeldError: If another invoice was begun for this tenant and period, and not issued.
    """
    invoice = draft.invoice
    with store.begin() as connection:
        take_turns(connection, f"invoice/{invoice.tenant}")
        currency = _currency_of_tenant(connection, invoice, settings=settings, now_ms=now_ms)
        if currency != invoice.currency:
            reason = f"tenant pays in {currency}, the price book is in {invoice.currency}"
            joined = "; ".join(filter(None, (draft.hold_reason, reason)))
            draft = Draft(invoice, joined, draft.unpriced)
        planned = _write_row(connection, draft, now_ms=now_ms)
        if planned.change in ("new", "replaced"):
            _set_period(connection, draft, now_ms=now_ms)
    return planned


def tenants_with_a_row(store: Engine, period: Period, currency: str) -> list[str]:
    """Tenants that have a first invoice of this period, whatever its state, in order."""
    query = (
        select(invoices.c.tenant)
        .where(
            invoices.c.period == period.name,
            invoices.c.currency == currency,
            invoices.c.revision == 1,
        )
        .order_by(invoices.c.tenant)
    )
    with store.connect() as connection:
        return list(connection.execute(query).scalars())


def _write_row(connection: Connection, draft: Draft, *, now_ms: int) -> PlannedInvoice:
    invoice = draft.invoice
    known = connection.execute(
        select(invoices.c.id, invoices.c.state, invoices.c.body, invoices.c.hold_reason).where(
            invoices.c.tenant == invoice.tenant,
            invoices.c.period == invoice.period,
            invoices.c.currency == invoice.currency,
            invoices.c.revision == invoice.revision,
        )
    ).one_or_none()
    is_open = known is None or _is_free(connection, known.id, now_ms=now_ms)
    corrections = carry(connection, invoice, take_waiting=is_open, now_ms=now_ms)
    invoice = carrying(invoice, corrections)
    draft = Draft(invoice, draft.hold_reason, draft.unpriced)

    def left(change: Change) -> PlannedInvoice:
        return PlannedInvoice(invoice, draft.hold_reason, draft.unpriced, change)

    if known is None:
        untouched = {"adopted": 0, "lease_until_ms": 0}
        connection.execute(insert(invoices).values(_row(draft, now_ms) | untouched))
        return left("new")
    if known.id == invoice.id and known.hold_reason == draft.hold_reason:
        return left("unchanged")
    if _replace(connection, known.id, draft, now_ms=now_ms):
        return left("replaced")
    before = Invoice.model_validate_json(known.body)
    if charges_sha256(before) == charges_sha256(invoice):
        return left("unchanged")
    if known.state in ISSUED_STATES:
        return PlannedInvoice(before, "", (), "late")
    raise InvoiceHeldError(
        f"invoice of {invoice.tenant} {invoice.period} is {known.state} as {known.id} (total"
        f" {before.total_minor}), but its usage now makes {invoice.id} (total"
        f" {invoice.total_minor}); a begun invoice is never overwritten"
    )


def _row(draft: Draft, now_ms: int) -> dict[str, object]:
    invoice = draft.invoice
    return {
        "id": invoice.id,
        "tenant": invoice.tenant,
        "period": invoice.period,
        "revision": invoice.revision,
        "currency": invoice.currency,
        "state": "held" if draft.hold_reason else "planned",
        "total_minor": invoice.total_minor,
        "body": invoice.canonical_json(),
        "planned_at_ms": now_ms,
        "hold_reason": draft.hold_reason,
    }


def _replace(connection: Connection, invoice_id: str, draft: Draft, *, now_ms: int) -> bool:
    """Whether the row was still free to be replaced, and so was.

    One statement, so that a runner which takes the row at the same moment either sees the new
    invoice or keeps the old one.
    """
    replaced = connection.execute(
        update(invoices).where(_free(invoice_id, now_ms)).values(_row(draft, now_ms))
    )
    return replaced.rowcount == 1


def _is_free(connection: Connection, invoice_id: str, *, now_ms: int) -> bool:
    """Whether the row could be replaced at this moment."""
    query = select(invoices.c.id).where(_free(invoice_id, now_ms))
    return connection.execute(query).first() is not None


def _free(invoice_id: str, now_ms: int) -> ColumnElement[bool]:
    return and_(
        invoices.c.id == invoice_id,
        invoices.c.state.in_(("planned", "held")),
        or_(invoices.c.lease_owner.is_(None), invoices.c.lease_until_ms <= now_ms),
        ~exists().where(stripe_calls.c.invoice_id == invoice_id),
    )


def _currency_of_tenant(
    connection: Connection, invoice: Invoice, *, settings: BillingSettings, now_ms: int
) -> str:
    """What the tenant pays in; a tenant that is new is created and pays what its usage costs."""
    currency: str | None = connection.execute(
        select(tenants.c.currency).where(tenants.c.tenant == invoice.tenant)
    ).scalar_one_or_none()
    if currency is not None:
        return currency
    connection.execute(
        insert(tenants).values(
            tenant=invoice.tenant,
            name=invoice.tenant,
            email=settings.new_tenant_email,
            currency=invoice.currency,
            net_days=settings.net_days,
            created_at_ms=now_ms,
        )
    )
    return invoice.currency


def _set_period(connection: Connection, draft: Draft, *, now_ms: int) -> None:
    """A period is rated once its invoice may go out, and closing while that is held."""
    state = "closing" if draft.hold_reason else "rated"
    key = and_(periods.c.tenant == draft.invoice.tenant, periods.c.period == draft.invoice.period)
    values = {"state": state, "changed_at_ms": now_ms}
    if connection.execute(update(periods).where(key).values(values)).rowcount == 0:
        connection.execute(
            insert(periods).values(
                tenant=draft.invoice.tenant, period=draft.invoice.period, **values
            )
        )
