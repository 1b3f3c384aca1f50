"""A correction: what a period that was invoiced costs by its final data, less what was charged."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from schemas.billing import RatedLine, RunReference
from schemas.fields import Contract, Count, Currency, Name, Sha256


class CorrectionLine(Contract):
    """One line that differs: what it is now, and what it had been charged at until now.

    A line that is gone is rated at a quantity of 0.
    """

    line_no: Annotated[int, Field(ge=1)]
    rated: RatedLine
    description: str
    quantity_before: Count
    charged_minor: int
    amount_minor: int

    def rated_minor(self) -> int:
        """What the one-shot rating gives this line."""
        return self.charged_minor + self.amount_minor


class Correction(Contract):
    """The difference between a period's one-shot rating and all that was charged for it before.

    `total_minor = rated_minor - charged_minor`, and the lines add up to it. Above 0 it is a debit,
    which a later invoice carries; below 0 a credit note; at 0 only quantities changed.
    """

    id: Sha256
    tenant: Name
    period: Name
    revision: Annotated[int, Field(ge=1)]
    """1 for the first correction of the invoice, and so on."""
    currency: Currency
    invoice_id: Sha256
    lines: tuple[CorrectionLine, ...]
    unbilled: tuple[RatedLine, ...]
    charged_minor: int
    """Of this period, by the invoice and all earlier corrections together."""
    rated_minor: Annotated[int, Field(ge=0)]
    total_minor: int
    requests: Count
    gpu_ns: Count
    price_book_sha256: Sha256
    rating_version: str
    runs: tuple[RunReference, ...]
    offsets: dict[str, int]
    events_root: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$", max_length=64)] = ""

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        difference = self.rated_minor - self.charged_minor
        if self.total_minor != difference:
            raise ValueError(
                f"total_minor: {self.total_minor} is not rated less charged, {difference}"
            )
        lines_minor = sum(line.amount_minor for line in self.lines)
        if self.total_minor != lines_minor:
            raise ValueError(f"total_minor: {self.total_minor} is not the lines' {lines_minor}")
        if [line.line_no for line in self.lines] != list(range(1, len(self.lines) + 1)):
            raise ValueError("lines: line_no counts 1, 2, 3 and so on")
        return self
