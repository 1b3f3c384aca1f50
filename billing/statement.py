"""Loads what a tenant's statement says: its invoice as stored, its days, its names, its prices."""

from dataclasses import dataclass

from sqlalchemy import Engine, select

from billing.price_books import load_book
from billing.usage_reader import read_days
from infra.clickhouse.client import Client
from infra.store.tables import invoices, tenants
from schemas.billing import Invoice, Statement
from schemas.errors import ContractError
from schemas.periods import Period
from schemas.prices import PriceBook

DRAFT_DIGITS = 8


@dataclass(frozen=True, slots=True)
class StatementSource:
    """A statement with what its figures need to be explained."""

    statement: Statement
    customer_name: str
    customer_email: str
    hold_reason: str
    book: PriceBook


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
    )
