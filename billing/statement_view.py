"""A statement in words and digits, once, so that text, HTML, CSV and PDF cannot differ; pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from billing.correcting import ID_DIGITS
from billing.correction_records import CorrectionRecord, settled_text
from billing.settings import BillingSettings
from billing.statement import StatementSource
from billing.wording import (
    METER_WORDS,
    money_text,
    per_text,
    price_text,
    product_text,
    quantity_text,
)
from schemas.billing import DailyUsage, Invoice, InvoiceLine, InvoiceState, RatedLine
from schemas.money import format_minor
from schemas.periods import parse_period
from schemas.prices import Price

STATE_WORDS: dict[InvoiceState, str] = {
    "planned": "Draft, not yet issued",
    "drafted": "Being issued",
    "lined": "Being issued",
    "verified": "Being issued",
    "finalized": "Being issued",
    "issued": "Issued",
    "paid": "Paid",
    "void": "Void",
    "uncollectible": "Uncollectible",
    "held": "On hold",
    "carried": "Carried to the next period",
    "empty": "Nothing to pay",
}
PERMILLE = 1000


@dataclass(frozen=True, slots=True)
class PartyView:
    """Supplier or customer, as an address block."""

    name: str
    details: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LineView:
    """A billed line. `amount` has thousands separators, `amount_plain` none."""

    no: int
    product: str
    meter: str
    requests: str
    quantity: str
    unit_price: str
    per: str
    amount: str
    amount_plain: str
    rated: RatedLine


@dataclass(frozen=True, slots=True)
class CarriedView:
    """A correction of an earlier period that this invoice collects."""

    no: int
    text: str
    amount: str
    amount_plain: str


@dataclass(frozen=True, slots=True)
class CorrectionView:
    """A correction of this period, made since its invoice was issued."""

    reference: str
    revision: str
    text: str
    settled: str
    amount: str
    amount_plain: str


@dataclass(frozen=True, slots=True)
class UnbilledView:
    """Usage that is not billed because of how its requests ended."""

    product: str
    meter: str
    quantity: str
    rated: RatedLine


@dataclass(frozen=True, slots=True)
class DayView:
    """One UTC day; `bar_permille` is its tokens as a share of the busiest day's."""

    day: str
    requests: str
    input_tokens: str
    output_tokens: str
    gpu_seconds: str
    bar_permille: int
    used: DailyUsage


@dataclass(frozen=True, slots=True)
class RunView:
    """A published hourly run behind the statement."""

    hour: str
    run_id: str
    digest: str


@dataclass(frozen=True, slots=True)
class StatementView:
    """Everything on a statement, ready to be set; all text is untrusted and must be escaped."""

    supplier: PartyView
    customer: PartyView
    tenant: str
    number: str
    period: str
    period_words: str
    state: str
    hold_reason: str
    currency: str
    lines: tuple[LineView, ...]
    carried: tuple[CarriedView, ...]
    corrections: tuple[CorrectionView, ...]
    corrected_total: str
    """The invoice's own charges with all corrections; empty where there are none."""
    total: str
    total_plain: str
    unbilled: tuple[UnbilledView, ...]
    unbilled_requests: str
    days: tuple[DayView, ...]
    all_days: DayView
    price_book: str
    price_book_sha256: str
    invoice_id: str
    rating_version: str
    events_root: str
    runs: tuple[RunView, ...]
    offsets: tuple[tuple[str, str], ...]
    losses: tuple[str, ...]


def view_of(source: StatementSource, settings: BillingSettings) -> StatementView:
    """Word a statement; every amount and quantity is exact, nothing is rounded here."""
    statement, invoice = source.statement, source.statement.invoice
    prices = {price.id: price for price in source.book.prices}
    period = parse_period(statement.period)
    last_day = period.end - timedelta(days=1)
    busiest = max((_tokens(day) for day in statement.days), default=0)
    return StatementView(
        supplier=PartyView(
            settings.supplier_name,
            (
                *settings.supplier_address,
                settings.supplier_email,
                *((f"Tax ID {settings.supplier_tax_id}",) if settings.supplier_tax_id else ()),
            ),
        ),
        customer=PartyView(
            source.customer_name, (source.customer_email, f"Account {statement.tenant}")
        ),
        tenant=statement.tenant,
        number=statement.number,
        period=statement.period,
        period_words=f"{period.start.day} {period.start:%B %Y} to {last_day.day} {last_day:%B %Y}",
        state=STATE_WORDS[statement.state],
        hold_reason=source.hold_reason if statement.state == "held" else "",
        currency=invoice.currency,
        lines=tuple(
            _line(line, prices[line.rated.price_id], invoice.currency) for line in invoice.lines
        ),
        carried=tuple(_carried(invoice)),
        corrections=tuple(_correction(record) for record in source.corrections),
        corrected_total=_corrected_total(source),
        total=money_text(invoice.total_minor, invoice.currency),
        total_plain=format_minor(invoice.total_minor, invoice.currency),
        unbilled=tuple(_unbilled(line) for line in invoice.unbilled),
        unbilled_requests=f"{_unbilled_requests(invoice.unbilled):,}",
        days=tuple(_day(day, busiest) for day in statement.days),
        all_days=_day(_sum_of(statement.days), 0),
        price_book=source.book.name,
        price_book_sha256=invoice.price_book_sha256,
        invoice_id=invoice.id,
        rating_version=invoice.rating_version,
        events_root=invoice.events_root,
        runs=tuple(RunView(run.hour, run.run_id, run.digest) for run in invoice.runs),
        offsets=tuple((name, f"{offset:,}") for name, offset in sorted(invoice.offsets.items())),
        losses=source.losses,
    )


def _line(line: InvoiceLine, price: Price, currency: str) -> LineView:
    rated = line.rated
    return LineView(
        no=line.line_no,
        product=product_text(rated),
        meter=METER_WORDS[rated.meter],
        requests=f"{rated.requests:,}",
        quantity=quantity_text(rated.quantity, rated.meter),
        unit_price=price_text(price),
        per=per_text(price),
        amount=money_text(line.amount_minor, currency),
        amount_plain=format_minor(line.amount_minor, currency),
        rated=rated,
    )


def _unbilled(line: RatedLine) -> UnbilledView:
    return UnbilledView(
        product_text(line),
        METER_WORDS[line.meter],
        quantity_text(line.quantity, line.meter),
        line,
    )


def _carried(invoice: Invoice) -> Iterator[CarriedView]:
    for no, one in enumerate(invoice.corrections, start=len(invoice.lines) + 1):
        yield CarriedView(
            no,
            one.description,
            money_text(one.amount_minor, invoice.currency),
            format_minor(one.amount_minor, invoice.currency),
        )


def _correction(record: CorrectionRecord) -> CorrectionView:
    one = record.correction
    return CorrectionView(
        reference=one.id[:ID_DIGITS],
        revision=str(one.revision),
        text="; ".join(line.description for line in one.lines) or "no charge differs",
        settled=settled_text(record),
        amount=money_text(one.total_minor, one.currency),
        amount_plain=format_minor(one.total_minor, one.currency),
    )


def _corrected_total(source: StatementSource) -> str:
    if not source.corrections:
        return ""
    last = source.corrections[-1].correction
    return money_text(last.rated_minor, last.currency)


def _day(day: DailyUsage, busiest: int) -> DayView:
    return DayView(
        day=day.day,
        requests=f"{day.requests:,}",
        input_tokens=f"{day.input_tokens:,}",
        output_tokens=f"{day.output_tokens:,}",
        gpu_seconds=quantity_text(day.gpu_ns, "gpu_ns"),
        bar_permille=_tokens(day) * PERMILLE // busiest if busiest else 0,
        used=day,
    )


def _tokens(day: DailyUsage) -> int:
    return day.input_tokens + day.output_tokens


def _sum_of(days: tuple[DailyUsage, ...]) -> DailyUsage:
    return DailyUsage(
        day="Total",
        requests=sum(day.requests for day in days),
        input_tokens=sum(day.input_tokens for day in days),
        output_tokens=sum(day.output_tokens for day in days),
        gpu_ns=sum(day.gpu_ns for day in days),
    )


def _unbilled_requests(unbilled: tuple[RatedLine, ...]) -> int:
    """Each unbilled request is on exactly one line of the meter `requests`."""
    return sum(line.quantity for line in unbilled if line.meter == "requests")
