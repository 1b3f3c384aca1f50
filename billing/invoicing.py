"""Turns rated lines into an invoice: rounded once, allocated exactly, named by content."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from billing.rating import RATING_VERSION, Rating, UsageTotal
from billing.wording import describe
from schemas.billing import CarriedCorrection, Invoice, InvoiceLine, RatedLine, RunReference
from schemas.ids import derived_hex
from schemas.money import allocate_minor
from schemas.periods import Period
from schemas.prices import PriceBook

_NO_ID = "0" * 64


@dataclass(frozen=True, slots=True)
class Proof:
    """Where a rating came from: its published runs, how far they read, the root over its events."""

    runs: tuple[RunReference, ...]
    offsets: Mapping[str, int]
    events_root: str = ""


def make_invoice(
    rating: Rating, book: PriceBook, period: Period, *, tenant: str, proof: Proof, revision: int = 1
) -> Invoice:
    """The invoice of one tenant and period.

    The exact amounts are summed and rounded once, half away from zero; the minor units are then
    given to the lines by largest remainder. Same arguments, same invoice, same id.

    Args:
        rating: What `rate` found; lines of other tenants are left out.
        book: The book that it was rated with.
        period: The period that it was rated for.
        tenant: Whose invoice it is.
        proof: Where the usage came from.
        revision: 1 for the first invoice of a tenant and period.
    """
    mine = [line for line in rating.lines if line.tenant == tenant]
    billed = [line for line in mine if line.outcome_class == "billed"]
    used = rating.totals.get(tenant, UsageTotal(0, 0))
    lines = _lines(billed, book)
    return named(
        Invoice(
            id=_NO_ID,
            tenant=tenant,
            period=period.name,
            revision=revision,
            currency=book.currency,
            lines=lines,
            unbilled=tuple(line for line in mine if line.outcome_class == "unbilled"),
            total_minor=sum(line.amount_minor for line in lines),
            requests=used.requests,
            gpu_ns=used.gpu_ns,
            price_book_sha256=book.sha256(),
            rating_version=RATING_VERSION,
            runs=tuple(sorted(proof.runs, key=lambda run: (run.hour, run.run_id))),
            offsets=dict(proof.offsets),
            events_root=proof.events_root,
        )
    )


def carrying(invoice: Invoice, corrections: Sequence[CarriedCorrection]) -> Invoice:
    """The invoice with corrections of earlier periods on it, under the id that this gives it."""
    if not corrections and not invoice.corrections:
        return invoice
    total_minor = invoice.own_minor() + sum(one.amount_minor for one in corrections)
    return named(
        invoice.model_copy(update={"corrections": tuple(corrections), "total_minor": total_minor})
    )


def named(invoice: Invoice) -> Invoice:
    """The invoice under the id that its content gives it: every field but the id itself."""
    content = invoice.model_copy(update={"id": _NO_ID}).canonical_json()
    return invoice.model_copy(update={"id": derived_hex("invoice.v1", content)})


def charges_sha256(invoice: Invoice) -> str:
    """Names what is charged and why, without the runs that it was read from.

    A run is published again when any tenant's late event lands in its hour; this stays the same
    for all the others.
    """
    without = {"id": _NO_ID, "runs": (), "offsets": {}, "events_root": ""}
    charged = invoice.model_copy(update=without)
    return derived_hex("charges.v1", charged.canonical_json())


def _lines(billed: list[RatedLine], book: PriceBook) -> tuple[InvoiceLine, ...]:
    prices = {price.id: price for price in book.prices}
    amounts_minor = allocate_minor(
        [line.amount() for line in billed], [line.key() for line in billed], book.currency
    )
    return tuple(
        InvoiceLine(
            line_no=line_no,
            rated=line,
            description=describe(line, prices[line.price_id], book.currency),
            amount_minor=amount_minor,
        )
        for line_no, (line, amount_minor) in enumerate(
            zip(billed, amounts_minor, strict=True), start=1
        )
    )
