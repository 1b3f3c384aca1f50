"""Corrections that an invoice carries: which wait, and which period's invoice has taken each."""

from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Select, and_, func, insert, select

from billing.correcting import carried
from infra.store.tables import correction_carries, correction_credits, corrections, invoices
from schemas.billing import CarriedCorrection, Invoice
from schemas.corrections import Correction
from schemas.periods import Period

_credited = (
    select(func.coalesce(func.sum(correction_credits.c.amount_minor), 0))
    .where(correction_credits.c.correction_id == corrections.c.id)
    .scalar_subquery()
)
_to_carry = corrections.c.total_minor + _credited
"""A debit whole; of a credit what no invoice had charged yet, below 0."""


def carry(
    connection: Connection, invoice: Invoice, *, take_waiting: bool, now_ms: int
) -> tuple[CarriedCorrection, ...]:
    """The corrections that an invoice carries, by period and revision.

    What a period's invoice has taken stays with it, also when that is planned anew. Whoever calls
    holds the turn `invoice/<tenant>`, so that nothing is carried twice.

    Args:
        connection: A transaction.
        invoice: Of which tenant, period and currency.
        take_waiting: Whether it may take those that wait, all of them at once.
        now_ms: When.
    """
    if take_waiting:
        for row in connection.execute(_waiting(invoice)).all():
            connection.execute(
                insert(correction_carries).values(
                    correction_id=row.id,
                    period=invoice.period,
                    amount_minor=int(row.amount_minor),
                    carried_at_ms=now_ms,
                )
            )
    return taken(connection, invoice.tenant, invoice.period, invoice.currency)


def taken(
    connection: Connection, tenant: str, period: str, currency: str
) -> tuple[CarriedCorrection, ...]:
    """The corrections that a period's invoice has taken, by period and revision."""
    query = (
        select(corrections.c.body, correction_carries.c.amount_minor)
        .join(correction_carries, correction_carries.c.correction_id == corrections.c.id)
        .where(_of(tenant, currency), correction_carries.c.period == period)
        .order_by(corrections.c.period, corrections.c.revision)
    )
    return tuple(
        carried(Correction.model_validate_json(row.body), row.amount_minor)
        for row in connection.execute(query)
    )


def waiting_minor(connection: Connection, invoice: Invoice) -> int:
    """What corrections of the invoice's own period wait to be carried, in one sum."""
    query = _uncarried(_to_carry).where(
        _of(invoice.tenant, invoice.currency), corrections.c.period == invoice.period
    )
    return sum(int(amount_minor) for amount_minor in connection.execute(query).scalars())


def tenants_with_corrections(store: Engine, period: Period, currency: str) -> list[str]:
    """Tenants whose invoice of this period is there for corrections alone, or would be."""
    in_currency = corrections.c.currency == currency
    wait = _uncarried(corrections.c.tenant).where(
        in_currency, corrections.c.period < period.name, _to_carry != 0
    )
    taken = (
        select(corrections.c.tenant)
        .join(correction_carries, correction_carries.c.correction_id == corrections.c.id)
        .where(in_currency, correction_carries.c.period == period.name)
    )
    with store.connect() as connection:
        tenants = sorted(
            {*connection.execute(wait).scalars(), *connection.execute(taken).scalars()}
        )
        return [one for one in tenants if _has_no_usage(connection, one, period, currency)]


def _has_no_usage(connection: Connection, tenant: str, period: Period, currency: str) -> bool:
    row = connection.execute(
        select(invoices.c.body, invoices.c.hold_reason).where(
            invoices.c.tenant == tenant,
            invoices.c.period == period.name,
            invoices.c.currency == currency,
            invoices.c.revision == 1,
        )
    ).one_or_none()
    if row is None:
        return True
    return not row.hold_reason and not Invoice.model_validate_json(row.body).runs


def _waiting(invoice: Invoice) -> Select[Any]:
    return (
        _uncarried(corrections.c.id, _to_carry.label("amount_minor"))
        .where(
            _of(invoice.tenant, invoice.currency),
            corrections.c.period < invoice.period,
            _to_carry != 0,
        )
        .order_by(corrections.c.period, corrections.c.revision)
    )


def _uncarried(*columns: ColumnElement[Any]) -> Select[Any]:
    return (
        select(*columns)
        .outerjoin(correction_carries, correction_carries.c.correction_id == corrections.c.id)
        .where(correction_carries.c.correction_id.is_(None))
    )


def _of(tenant: str, currency: str) -> ColumnElement[bool]:
    return and_(corrections.c.tenant == tenant, corrections.c.currency == currency)
