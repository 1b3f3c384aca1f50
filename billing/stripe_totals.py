"""What Stripe holds for a period, added up from Stripe's side alone."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from sqlalchemy import Engine, select

from billing.issuer_bodies import UNBILLED
from billing.stripe_gateway import StripeGateway
from billing.stripe_objects import StripeInvoice, StripeLine
from infra.store.tables import invoices
from schemas.errors import ConservationError
from schemas.periods import Period
from schemas.usage import TOKEN_METERS

LIVE_STATES = frozenset({"open", "paid", "uncollectible"})
"""A draft charges nobody yet, a void one nobody any more."""

CHARGED_STATES = ("issued", "paid", "uncollectible")
"""The same in the store's words."""


@dataclass(frozen=True, slots=True)
class StripeTotals:
    """Sums over a period's live invoices; tokens count billed and unbilled ones."""

    invoices: int
    amount_minor: int
    requests: int
    gpu_ns: int
    tokens: dict[str, int]


def totals_on_stripe(
    gateway: StripeGateway, period: Period, tenants: Collection[str] | None = None
) -> StripeTotals:
    """Read every invoice of a period back and add it up; of some tenants if they are named.

    Lists the whole account (100 invoices a request): a filter on Stripe's creation time would
    miss periods that were issued late, or early.

    Raises:
        ConservationError: If the period was charged in several currencies, which have no sum.
    """
    amount_minor = requests = gpu_ns = count = 0
    tokens: Counter[str] = Counter()
    currencies = set()
    for invoice in live_invoices(gateway, period):
        if tenants is not None and invoice.metadata["tenant"] not in tenants:
            continue
        count += 1
        currencies.add(invoice.currency)
        amount_minor += invoice.total_minor
        requests += int(invoice.metadata["requests"])
        gpu_ns += int(invoice.metadata["gpu_ns"])
        lines = gateway.lines(invoice.id) if invoice.more_lines else invoice.lines
        tokens.update(_tokens(invoice, lines))
    if len(currencies) > 1:
        raise ConservationError(f"{period.name} was charged in {sorted(currencies)}: no sum")
    return StripeTotals(
        invoices=count,
        amount_minor=amount_minor,
        requests=requests,
        gpu_ns=gpu_ns,
        tokens={meter: tokens[meter] for meter in TOKEN_METERS},
    )


def live_invoices(gateway: StripeGateway, period: Period) -> Iterable[StripeInvoice]:
    """Our invoices of a period that Stripe collects or has collected."""
    for invoice in gateway.invoices():
        ours = "invoice_id" in invoice.metadata and invoice.metadata.get("period") == period.name
        if ours and invoice.status in LIVE_STATES:
            yield invoice


def differences(store: Engine, gateway: StripeGateway, period: Period) -> list[str]:
    """Where the store and Stripe disagree about a period's issued invoices; empty: they agree."""
    theirs: dict[str, list[StripeInvoice]] = {}
    for invoice in live_invoices(gateway, period):
        theirs.setdefault(invoice.metadata["invoice_id"], []).append(invoice)
    with store.connect() as connection:
        rows = connection.execute(
            select(invoices.c.id, invoices.c.tenant, invoices.c.total_minor).where(
                invoices.c.period == period.name, invoices.c.state.in_(CHARGED_STATES)
            )
        ).all()
    found = []
    for row in rows:
        there = theirs.pop(row.id, [])
        totals = [one.total_minor for one in there]
        if totals != [row.total_minor]:
            found.append(
                f"{row.tenant} {period.name}: {row.total_minor} minor units in the store,"
                f" {totals} on Stripe"
            )
    found += [f"{name}: on Stripe, not issued in the store" for name in sorted(theirs)]
    return found


def _tokens(invoice: StripeInvoice, lines: Iterable[StripeLine]) -> Counter[str]:
    tokens: Counter[str] = Counter()
    for line in lines:
        if line.metadata.get("meter") in TOKEN_METERS:
            tokens[line.metadata["meter"]] += int(line.metadata["quantity"])
    for meter in TOKEN_METERS:
        tokens[meter] += int(invoice.metadata.get(f"{UNBILLED}{meter}", "0"))
    return tokens
