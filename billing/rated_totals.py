"""What the invoices of a period add up to in the billing store, billed and unbilled together."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from sqlalchemy import Engine, select

from infra.store.tables import invoices
from schemas.billing import Invoice
from schemas.periods import Period
from schemas.usage import TOKEN_METERS


@dataclass(slots=True)
class RatedTotals:
    """Sums over invoices that are not held; `held` says which are, and why."""

    invoices: int = 0
    amount_minor: int = 0
    requests: int = 0
    gpu_ns: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    currencies: set[str] = field(default_factory=set)
    held: dict[str, str] = field(default_factory=dict)


def rated_totals(
    store: Engine, period: Period, tenants: Collection[str] | None = None
) -> RatedTotals:
    """Add up the frozen invoices of a period, one at a time; of some tenants if they are named."""
    totals = RatedTotals()
    query = (
        select(invoices.c.tenant, invoices.c.state, invoices.c.hold_reason, invoices.c.body)
        .where(invoices.c.period == period.name)
        .order_by(invoices.c.tenant, invoices.c.revision)
    )
    if tenants is not None:
        query = query.where(invoices.c.tenant.in_(sorted(tenants)))
    with store.connect() as connection:
        for row in connection.execute(query):
            if row.state == "held":
                totals.held[row.tenant] = row.hold_reason
            else:
                _add(totals, Invoice.model_validate_json(row.body))
    return totals


def _add(totals: RatedTotals, invoice: Invoice) -> None:
    totals.invoices += 1
    totals.amount_minor += invoice.total_minor
    totals.requests += invoice.requests
    totals.gpu_ns += invoice.gpu_ns
    totals.currencies.add(invoice.currency)
    rated = [*(line.rated for line in invoice.lines), *invoice.unbilled]
    for line in rated:
        if line.meter in TOKEN_METERS:
            totals.tokens[line.meter] += line.quantity
