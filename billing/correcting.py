"""What an invoiced period must be corrected by: its one-shot rating less all charged before; pure.

The whole period is rated again from the runs in force and rounded once, as an invoice is. From that
the minor units already charged are taken, line by line. Nothing that was rounded is rounded again,
so after any number of corrections the period has been charged its one-shot rating exactly.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from billing.wording import METER_WORDS, product_text, quantity_text
from schemas.billing import CarriedCorrection, Invoice, RatedLine
from schemas.corrections import Correction, CorrectionLine
from schemas.errors import ConservationError
from schemas.ids import derived_hex

_NO_ID = "0" * 64
ID_DIGITS = 12


@dataclass(slots=True)
class Charged:
    """A period as it has been charged so far: by line key, and what it was made from last."""

    price_book_sha256: str
    requests: int
    gpu_ns: int
    unbilled: tuple[RatedLine, ...]
    minor: dict[str, int] = field(default_factory=dict)
    rated: dict[str, RatedLine] = field(default_factory=dict)

    def total_minor(self) -> int:
        """Charged for the period until now."""
        return sum(self.minor.values())


def charged_so_far(invoice: Invoice, earlier: Sequence[Correction]) -> Charged:
    """An invoice's own lines and its corrections, added up; what it carries for others is not.

    Raises:
        ConservationError: If the corrections are not the invoice's, all of them, in order.
    """
    so_far = Charged(invoice.price_book_sha256, invoice.requests, invoice.gpu_ns, invoice.unbilled)
    for line in invoice.lines:
        key = line.rated.key()
        so_far.minor[key] = so_far.minor.get(key, 0) + line.amount_minor
        so_far.rated[key] = line.rated
    for revision, one in enumerate(earlier, start=1):
        if (one.invoice_id, one.revision, one.charged_minor) != (
            invoice.id,
            revision,
            so_far.total_minor(),
        ):
            raise ConservationError(
                f"correction {one.id} is revision {one.revision} of invoice {one.invoice_id} after"
                f" {one.charged_minor} charged; expected revision {revision} of {invoice.id} after"
                f" {so_far.total_minor()}"
            )
        _add(so_far, one)
    return so_far


def _add(so_far: Charged, one: Correction) -> None:
    so_far.price_book_sha256 = one.price_book_sha256
    so_far.requests, so_far.gpu_ns, so_far.unbilled = one.requests, one.gpu_ns, one.unbilled
    for line in one.lines:
        key = line.rated.key()
        so_far.minor[key] = so_far.minor.get(key, 0) + line.amount_minor
        so_far.rated[key] = line.rated


def correct(invoice: Invoice, earlier: Sequence[Correction], final: Invoice) -> Correction | None:
    """The next correction of an invoiced period; None where nothing is different.

    Args:
        invoice: As it was issued.
        earlier: All its corrections until now, by revision.
        final: What `make_invoice` makes of the period's data now, as if it were the first time.

    Raises:
        ConservationError: If `final` is of another tenant, period or currency, or `earlier` is not
            the invoice's.
    """
    whose = (invoice.tenant, invoice.period, invoice.currency)
    if (final.tenant, final.period, final.currency) != whose:
        raise ConservationError(
            f"invoice of {whose} cannot be corrected by a rating of"
            f" {(final.tenant, final.period, final.currency)}"
        )
    before = charged_so_far(invoice, earlier)
    lines = tuple(_lines(before, final))
    is_same = (
        not lines
        and before.price_book_sha256 == final.price_book_sha256
        and (before.requests, before.gpu_ns) == (final.requests, final.gpu_ns)
        and before.unbilled == final.unbilled
    )
    if is_same:
        return None
    return _named(
        Correction(
            id=_NO_ID,
            tenant=invoice.tenant,
            period=invoice.period,
            revision=len(earlier) + 1,
            currency=invoice.currency,
            invoice_id=invoice.id,
            lines=lines,
            unbilled=final.unbilled,
            charged_minor=before.total_minor(),
            rated_minor=final.own_minor(),
            total_minor=final.own_minor() - before.total_minor(),
            requests=final.requests,
            gpu_ns=final.gpu_ns,
            price_book_sha256=final.price_book_sha256,
            rating_version=final.rating_version,
            runs=final.runs,
            offsets=final.offsets,
            events_root=final.events_root,
        )
    )


def _named(correction: Correction) -> Correction:
    """The correction under the id that its content gives it: every field but the id itself."""
    return correction.model_copy(
        update={"id": derived_hex("correction.v1", correction.canonical_json())}
    )


def _lines(before: Charged, final: Invoice) -> Iterable[CorrectionLine]:
    """The lines that differ, in the order of the new rating; then those that are gone."""
    now = {line.rated.key(): line for line in final.lines}
    gone = sorted(before.minor.keys() - now.keys())
    line_no = 0
    for key in (*now, *gone):
        rated = now[key].rated if key in now else _emptied(before.rated[key])
        rated_minor = now[key].amount_minor if key in now else 0
        charged_minor = before.minor.get(key, 0)
        if before.rated.get(key) == rated and charged_minor == rated_minor:
            continue
        line_no += 1
        quantity_before = before.rated[key].quantity if key in before.rated else 0
        yield CorrectionLine(
            line_no=line_no,
            rated=rated,
            description=_description(rated, quantity_before),
            quantity_before=quantity_before,
            charged_minor=charged_minor,
            amount_minor=rated_minor - charged_minor,
        )


def _emptied(rated: RatedLine) -> RatedLine:
    return rated.model_copy(update={"requests": 0, "quantity": 0, "numerator_e12": 0})


def _description(rated: RatedLine, quantity_before: int) -> str:
    now = quantity_text(rated.quantity, rated.meter)
    before = quantity_text(quantity_before, rated.meter)
    return f"{product_text(rated)}: {now} {METER_WORDS[rated.meter]}, charged before: {before}"


def split_credit(credit_minor: int, creditable: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Share a credit over invoices, in their order, none beyond what can be credited on it.

    Args:
        credit_minor: To give back, zero or more.
        creditable: By invoice what it charged for the period, less what was credited on it.

    Returns:
        By invoice the minor units to credit, all above 0; and what is left over.
    """
    parts: dict[str, int] = {}
    left = credit_minor
    for invoice_id, free_minor in creditable.items():
        part = min(left, max(free_minor, 0))
        if part:
            parts[invoice_id] = part
            left -= part
    return parts, left


def carried(correction: Correction, amount_minor: int) -> CarriedCorrection:
    """A correction as a later invoice carries it, with its reference."""
    return CarriedCorrection(
        correction_id=correction.id,
        period=correction.period,
        revision=correction.revision,
        invoice_id=correction.invoice_id,
        amount_minor=amount_minor,
        description=(
            f"Correction {correction.revision} of period {correction.period}, invoice"
            f" {correction.invoice_id[:ID_DIGITS]}, reference {correction.id[:ID_DIGITS]}"
        ),
    )
