"""What billing works on and hands out: hourly usage, rated lines, invoices, statements."""

from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schemas.fields import Contract, Count, Currency, Name, OptionalName, Sha256
from schemas.money import exact_amount
from schemas.prices import Meter
from schemas.usage import Outcome

InvoiceState = Literal[
    "planned",
    "drafted",
    "lined",
    "verified",
    "finalized",
    "issued",
    "paid",
    "void",
    "uncollectible",
    "held",
    "carried",
    "empty",
]


@dataclass(frozen=True, slots=True)
class HourlyUsage:
    """One row of a published hourly run, as rating reads it.

    `quantities` holds every meter of `schemas.usage.METERS` that the row measures.
    """

    hour: datetime
    run_id: str
    tenant: str
    project: str
    api_key: str
    model: str
    adapter: str
    service_tier: str
    gpu_type: str
    region: str
    outcome: Outcome
    requests: int
    quantities: dict[str, int]


class RatedLine(Contract):
    """Usage of one tenant, product and price over one period, rated exactly.

    The exact amount is `numerator_e12 / (per * 10^12)` major units. A line that is not billed
    (by its outcome) carries its quantity and a numerator of 0.
    """

    tenant: Name
    period: Name
    price_id: OptionalName
    meter: Meter
    model: Name
    adapter: OptionalName
    service_tier: Name
    outcome_class: Literal["billed", "unbilled"]
    requests: Count
    quantity: Count
    per: Annotated[int, Field(ge=1)]
    numerator_e12: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _billed_means_priced(self) -> Self:
        if self.outcome_class == "billed" and not self.price_id:
            raise ValueError("price_id: a billed line names its price")
        if self.outcome_class == "unbilled" and self.numerator_e12:
            raise ValueError(f"numerator_e12: {self.numerator_e12} on an unbilled line")
        return self

    def key(self) -> str:
        """Names the line within its invoice; also the tie-break of the last minor unit."""
        return f"{self.model}|{self.adapter}|{self.service_tier}|{self.meter}|{self.price_id}"

    def amount(self) -> Fraction:
        """Exact major units."""
        return exact_amount(self.numerator_e12, self.per)


class UnpricedUsage(Contract):
    """Usage on a billed meter that no price covers; it holds the tenant's invoice."""

    tenant: Name
    meter: Meter
    model: Name
    adapter: OptionalName
    service_tier: Name
    first_hour: str
    requests: Count
    quantity: Count


class InvoiceLine(Contract):
    """A rated line with the minor units that the allocation gave it."""

    line_no: Annotated[int, Field(ge=1)]
    rated: RatedLine
    description: str
    amount_minor: int


class RunReference(Contract):
    """A published hourly run that an invoice was made from."""

    hour: str
    run_id: Sha256
    digest: Sha256


class CarriedCorrection(Contract):
    """A correction of an earlier period that this invoice collects, in one amount.

    Negative only where a credit was greater than what had been charged by then: it takes back
    debits of the same period that stand beside it.
    """

    correction_id: Sha256
    period: Name
    revision: Annotated[int, Field(ge=1)]
    invoice_id: Sha256
    amount_minor: int
    description: str


class Invoice(Contract):
    """What is charged for one tenant and period, and everything needed to derive it again."""

    id: Sha256
    tenant: Name
    period: Name
    revision: Annotated[int, Field(ge=1)]
    currency: Currency
    lines: tuple[InvoiceLine, ...]
    unbilled: tuple[RatedLine, ...]
    total_minor: int
    requests: Count
    gpu_ns: Count
    price_book_sha256: Sha256
    rating_version: str
    runs: tuple[RunReference, ...]
    offsets: dict[str, int]
    events_root: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$", max_length=64)] = ""
    """Root over all events of the tenant and period (`schemas.proofs`); empty before 0.1.0."""
    corrections: tuple[CarriedCorrection, ...] = ()
    """Of earlier periods; `schemas.corrections.Correction` explains each line by line."""

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        lines_minor = self.own_minor() + self.carried_minor()
        if self.total_minor != lines_minor:
            raise ValueError(f"total_minor: {self.total_minor} is not the lines' {lines_minor}")
        if [line.line_no for line in self.lines] != list(range(1, len(self.lines) + 1)):
            raise ValueError("lines: line_no counts 1, 2, 3 and so on")
        return self

    def own_minor(self) -> int:
        """What this period's own usage is charged at, without what is carried."""
        return sum(line.amount_minor for line in self.lines)

    def carried_minor(self) -> int:
        """What corrections of earlier periods add."""
        return sum(one.amount_minor for one in self.corrections)


class DailyUsage(Contract):
    """One day of a statement's usage table, summed over models and tiers."""

    day: str
    requests: Count
    input_tokens: Count
    output_tokens: Count
    gpu_ns: Count


class Statement(Contract):
    """What a tenant reads: its invoice, where it stands, and its usage by day."""

    tenant: Name
    period: Name
    state: InvoiceState
    number: str
    invoice: Invoice
    days: tuple[DailyUsage, ...]
