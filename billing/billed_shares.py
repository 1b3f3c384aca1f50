"""What is rolled up of a period by tenant beside what its invoices hold, and why they differ."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, select

from infra.clickhouse.client import Client
from infra.store.tables import invoices
from schemas.billing import Invoice
from schemas.periods import Period
from schemas.usage import TOKEN_METERS

MEASURES = ("requests", *TOKEN_METERS, "gpu_ns")
HOURS_SHOWN_MAX = 5
Sums = tuple[int, ...]
"""One number for each of `MEASURES`."""
_IN_PERIOD = "hour >= {start:DateTime('UTC')} AND hour < {end:DateTime('UTC')}"
_NOTHING = (0,) * len(MEASURES)


@dataclass(frozen=True, slots=True)
class UnbilledPart:
    """What is rolled up of a tenant and is not on its invoice; `hours` are its first hours."""

    tenant: str
    reason: str
    sums: Sums
    hours: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BilledShares:
    """By tenant what is rolled up and what invoices hold, billed or not; and the rest."""

    rolled_up: Mapping[str, Sums]
    invoiced: Mapping[str, Sums]
    unbilled: Sequence[UnbilledPart]


def billed_shares(ledger: Client, store: Engine, period: Period) -> BilledShares:
    """Hold the invoices of a period to its roll-ups, tenant by tenant.

    An invoice lists every token that its tenant used, on a billed line or an unbilled one.

    Args:
        ledger: A client on the ledger's database.
        store: The billing store.
        period: Its invoices, and its hours.
    """
    rolled = _rolled_up(ledger, period)
    invoiced: dict[str, Sums] = {}
    unbilled: list[UnbilledPart] = []
    known, held = _invoices(store, period)
    for tenant, sums in rolled.items():
        if tenant not in known:
            reason = f"invoice held: {held[tenant]}" if tenant in held else "no invoice planned"
            unbilled.append(UnbilledPart(tenant, reason, sums, ()))
    for tenant, invoice in known.items():
        invoiced[tenant] = _sums(invoice)
        later = _closed_again(ledger, period, invoice)
        if later is not None:
            unbilled.append(later)
    return BilledShares(rolled, invoiced, unbilled)


def _invoices(store: Engine, period: Period) -> tuple[dict[str, Invoice], dict[str, str]]:
    """First invoices by tenant, those that are not held; and why the others are."""
    query = (
        select(invoices.c.tenant, invoices.c.state, invoices.c.hold_reason, invoices.c.body)
        .where(invoices.c.period == period.name, invoices.c.revision == 1)
        .order_by(invoices.c.tenant)
    )
    known, held = {}, {}
    with store.connect() as connection:
        for row in connection.execute(query):
            if row.state == "held":
                held[row.tenant] = row.hold_reason
            else:
                known[row.tenant] = Invoice.model_validate_json(row.body)
    return known, held


def _rolled_up(ledger: Client, period: Period) -> dict[str, Sums]:
    sums = ", ".join(f"sum({name})" for name in MEASURES)
    rows = ledger.query(
        f"SELECT tenant, {sums} FROM usage_hourly WHERE {_IN_PERIOD}"  # noqa: S608
        " GROUP BY tenant ORDER BY tenant",
        parameters={"start": period.start, "end": period.end},
    ).result_rows
    return {tenant: tuple(map(int, counted)) for tenant, *counted in rows}


def _closed_again(ledger: Client, period: Period, invoice: Invoice) -> UnbilledPart | None:
    """What the runs in force hold more, or less, than the runs that an invoice names."""
    sums = ", ".join(f"toInt64(sum({name}))" for name in MEASURES)
    named = "has({runs:Array(String)}, toString(run_id))"
    rows = ledger.query(
        f"SELECT 1, formatDateTime(hour, '%Y-%m-%dT%H:%iZ'), {sums}"  # noqa: S608
        f" FROM usage_hourly_runs FINAL WHERE {_IN_PERIOD} AND tenant = {{tenant:String}}"
        f" AND {named} GROUP BY hour"
        f" UNION ALL SELECT 0, formatDateTime(hour, '%Y-%m-%dT%H:%iZ'), {sums} FROM usage_hourly"
        f" WHERE {_IN_PERIOD} AND tenant = {{tenant:String}} GROUP BY hour",
        parameters={
            "start": period.start,
            "end": period.end,
            "tenant": invoice.tenant,
            "runs": [run.run_id for run in invoice.runs],
        },
    ).result_rows
    sides: tuple[dict[str, Sums], dict[str, Sums]] = ({}, {})
    for side, hour, *counted in rows:
        sides[side][hour] = tuple(map(int, counted))
    now, then = sides
    changed = [h for h in sorted(now.keys() | then.keys()) if now.get(h) != then.get(h)]
    if not changed:
        return None
    before, after = _total(then.values()), _total(now.values())
    more = tuple(one - other for one, other in zip(after, before, strict=True))
    reason = "closed again since the invoice was made"
    return UnbilledPart(invoice.tenant, reason, more, tuple(changed[:HOURS_SHOWN_MAX]))


def _sums(invoice: Invoice) -> Sums:
    listed: dict[str, int] = {}
    for line in (*(one.rated for one in invoice.lines), *invoice.unbilled):
        listed[line.meter] = listed.get(line.meter, 0) + line.quantity
    listed |= {"requests": invoice.requests, "gpu_ns": invoice.gpu_ns}
    return tuple(listed.get(name, 0) for name in MEASURES)


def _total(sums: Iterable[Sums]) -> Sums:
    return tuple(map(sum, zip(_NOTHING, *sums, strict=True)))
