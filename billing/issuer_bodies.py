"""Request bodies for Stripe made from a frozen invoice, and the draft compared with it; pure."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

from billing.stripe_objects import Json, StripeInvoice, StripeLine
from schemas.billing import CarriedCorrection, Invoice, InvoiceLine
from schemas.errors import ConservationError, InvoiceHeldError
from schemas.money import format_price
from schemas.periods import parse_period

MAX_LINES = 250
"""Items that Stripe takes on one invoice."""
LINES_A_CALL = 100
MAX_DESCRIPTION = 500
MAX_METADATA_VALUE = 500
SHOWN_DIFFERENCES = 5
NO_USAGE_KEY = "no_billable_usage"
"""The one line of an invoice that charges nothing: Stripe wants at least one."""
UNBILLED = "unbilled_"
CORRECTION = "correction"
"""Kind of a line that collects a correction of an earlier period."""


def customer_body(tenant: str, name: str, email: str) -> Json:
    """A customer that names its tenant, so that it is found again without our store."""
    return {"name": name, "email": email, "metadata": {"tenant": tenant}}


def invoice_body(invoice: Invoice, customer: str, net_days: int) -> Json:
    """A draft without lines, which nothing advances but we."""
    return {
        "customer": customer,
        "currency": invoice.currency.lower(),
        "auto_advance": False,
        "collection_method": "send_invoice",
        "days_until_due": net_days,
        "pending_invoice_items_behavior": "exclude",
        "description": memo(invoice),
        "metadata": invoice_metadata(invoice),
    }


def memo(invoice: Invoice) -> str:
    """What the tenant reads above the lines: the period, and which statement explains them."""
    period = parse_period(invoice.period)
    return (
        f"Usage from {period.start:%Y-%m-%d %H:%M} to {period.end:%Y-%m-%d %H:%M} UTC"
        f" (end excluded), period {invoice.period}.\n"
        f"Statement {invoice.tenant} {invoice.period}, revision {invoice.revision},"
        f" reference {invoice.id}."
    )


def invoice_metadata(invoice: Invoice) -> dict[str, str]:
    """Enough to add up tokens and GPU time on Stripe's side alone, and to prove the invoice."""
    unbilled: Counter[str] = Counter()
    for line in invoice.unbilled:
        unbilled[line.meter] += line.quantity
    return {
        "invoice_id": invoice.id,
        "tenant": invoice.tenant,
        "period": invoice.period,
        "revision": str(invoice.revision),
        "requests": str(invoice.requests),
        "gpu_ns": str(invoice.gpu_ns),
        "price_book_sha256": invoice.price_book_sha256,
        **({"events_root": invoice.events_root} if invoice.events_root else {}),
        **{f"{UNBILLED}{meter}": str(unbilled[meter]) for meter in sorted(unbilled)},
    }


def same_charge(metadata: dict[str, str], invoice: Invoice) -> bool:
    """Whether a Stripe invoice is for this tenant, period and revision (currency aside)."""
    want = (invoice.tenant, invoice.period, str(invoice.revision))
    return tuple(metadata.get(name, "") for name in ("tenant", "period", "revision")) == want


def line_bodies(invoice: Invoice) -> list[Json]:
    """The lines in the order in which they are read.

    Raises:
        InvoiceHeldError: If there are more than Stripe takes.
        ConservationError: If they do not add up to the invoice's total.
    """
    count = len(invoice.lines) + len(invoice.corrections)
    if count > MAX_LINES:
        raise InvoiceHeldError(
            f"invoice {invoice.id} of {invoice.tenant} has {count} lines and Stripe"
            f" takes {MAX_LINES}: charge fewer products on one invoice, or fold lines"
        )
    added = invoice.own_minor() + invoice.carried_minor()
    if added != invoice.total_minor:
        raise ConservationError(
            f"invoice {invoice.id}: lines add up to {added}, total_minor is {invoice.total_minor}"
        )
    span = parse_period(invoice.period)
    period = {"start": int(span.start.timestamp()), "end": int(span.end.timestamp())}
    if not count:
        empty: Json = {
            "amount": 0,
            "description": "No billable usage",
            "period": period,
            "metadata": {"line_key": NO_USAGE_KEY},
        }
        return [empty]
    return [
        {
            "amount": line.amount_minor,
            "description": line.description[:MAX_DESCRIPTION],
            "period": period,
            "metadata": line_metadata(line),
        }
        for line in invoice.lines
    ] + [_carried_body(one) for one in invoice.corrections]


def _carried_body(one: CarriedCorrection) -> Json:
    """A correction's line: over the period that it corrects, naming the invoice of that."""
    span = parse_period(one.period)
    return {
        "amount": one.amount_minor,
        "description": one.description[:MAX_DESCRIPTION],
        "period": {"start": int(span.start.timestamp()), "end": int(span.end.timestamp())},
        "metadata": {
            "line_key": f"{CORRECTION}:{one.correction_id}",
            "kind": CORRECTION,
            "period": one.period,
            "revision": str(one.revision),
            "invoice_id": one.invoice_id,
        },
    }


def line_metadata(line: InvoiceLine) -> dict[str, str]:
    """What the line was rated from."""
    rated = line.rated
    metadata = {
        "line_key": line_key(rated.key()),
        "meter": rated.meter,
        "quantity": str(rated.quantity),
        "unit_price": _unit_price(line),
        "price_id": rated.price_id,
    }
    # To Stripe an empty value means: forget this key. The draft would come back without it.
    return {name: value for name, value in metadata.items() if value}


def line_key(key: str) -> str:
    """The line's key, or its SHA-256 where Stripe would not take one so long."""
    if len(key) <= MAX_METADATA_VALUE:
        return key
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def _unit_price(line: InvoiceLine) -> str:
    """`0.06 per 1000000`; where units cost different amounts it says so."""
    rated = line.rated
    if rated.quantity == 0 or rated.numerator_e12 % rated.quantity:
        return "varies"
    return f"{format_price(rated.numerator_e12 // rated.quantity)} per {rated.per}"


def chunks(bodies: Sequence[Json]) -> list[list[Json]]:
    """Lines per call, the last first: Stripe shows the newest line at the top."""
    backwards = list(reversed(bodies))
    return [backwards[at : at + LINES_A_CALL] for at in range(0, len(bodies), LINES_A_CALL)]


def missing_lines(bodies: Iterable[Json], there: Iterable[StripeLine]) -> list[Json]:
    """Those lines that the draft does not have yet, by their key."""
    have = {line.metadata.get("line_key", "") for line in there}
    return [body for body in bodies if body["metadata"]["line_key"] not in have]


def check_invoice(
    invoice: Invoice, customer: str, found: StripeInvoice, lines: Sequence[StripeLine]
) -> None:
    """Hold the invoice unless Stripe's is ours, line for line.

    Raises:
        InvoiceHeldError: With the first differences.
    """
    currency = invoice.currency.lower()
    differences = [
        f"{name} is {theirs!r}, ours is {ours!r}"
        for name, theirs, ours in (
            ("customer", found.customer, customer),
            ("currency", found.currency, currency),
            ("total", found.total_minor, invoice.total_minor),
            ("metadata", found.metadata, invoice_metadata(invoice)),
        )
        if theirs != ours
    ]
    ours_lines = Counter(
        _comparable(body["metadata"], body["amount"], currency) for body in line_bodies(invoice)
    )
    their_lines = Counter(
        _comparable(line.metadata, line.amount_minor, line.currency) for line in lines
    )
    differences += [f"only Stripe has line {one}" for one in sorted(their_lines - ours_lines)]
    differences += [f"Stripe lacks line {one}" for one in sorted(ours_lines - their_lines)]
    if differences:
        more = len(differences) - SHOWN_DIFFERENCES
        shown = "; ".join(differences[:SHOWN_DIFFERENCES]) + (f"; {more} more" if more > 0 else "")
        raise InvoiceHeldError(f"Stripe's invoice {found.id} is not ours: {shown}")


def _comparable(
    metadata: dict[str, str], amount_minor: int, currency: str
) -> tuple[int, str, tuple[tuple[str, str], ...]]:
    return amount_minor, currency, tuple(sorted(metadata.items()))
