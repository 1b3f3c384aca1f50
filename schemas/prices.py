"""The price book: which usage costs what, from when, and which outcome is billed at all.

A book is immutable once imported and is named by the SHA-256 of its canonical JSON. Unit prices
are integers scaled by 10^12 over `per` units of the meter.
"""

import hashlib
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from schemas.fields import Contract, Currency, Name
from schemas.money import UNIT_PRICE_E12_MAX
from schemas.units import MS_PER_HOUR
from schemas.usage import METERS, OUTCOMES

Meter = Annotated[str, Field(max_length=64)]
HourMs = Annotated[int, Field(ge=0, le=2**47, multiple_of=MS_PER_HOUR)]
"""The start of a whole UTC hour, in milliseconds since the epoch."""
UnitPriceE12 = Annotated[int, Field(ge=0, le=UNIT_PRICE_E12_MAX)]

Billing = Literal["billed", "unbilled"]

SELECTORS = ("tenant", "project", "model", "adapter", "service_tier", "gpu_type", "region")
"""What a price can be narrowed to, the most telling first."""


class UnitPricing(Contract):
    """Every unit costs the same."""

    kind: Literal["unit"]
    unit_price_e12: UnitPriceE12


class PriceStep(Contract):
    """Units above the step before and up to `up_to` (inclusive; None: without end)."""

    unit_price_e12: UnitPriceE12
    up_to: Annotated[int, Field(ge=1)] | None = None


class GraduatedPricing(Contract):
    """Each unit costs what its own step says; the counter is per tenant, price and period."""

    kind: Literal["graduated"]
    steps: Annotated[tuple[PriceStep, ...], Field(min_length=1, max_length=64)]

    @model_validator(mode="after")
    def _steps_rise_and_end(self) -> Self:
        bounds = [step.up_to for step in self.steps]
        if bounds[-1] is not None or None in bounds[:-1]:
            raise ValueError("steps: the last step, and only it, has no up_to")
        limits = [bound for bound in bounds if bound is not None]
        if limits != sorted(set(limits)):
            raise ValueError(f"steps: up_to must rise: {limits}")
        return self


Pricing = Annotated[UnitPricing | GraduatedPricing, Field(discriminator="kind")]


class Selector(Contract):
    """What a price applies to; a field left at None matches everything.

    Of the prices that match, the one that fixes the most telling field (in the order of
    `SELECTORS`, compared like a word in a dictionary) wins.
    """

    tenant: Name | None = None
    project: Name | None = None
    model: Name | None = None
    adapter: Name | None = None
    service_tier: Name | None = None
    gpu_type: Name | None = None
    region: Name | None = None

    def rank(self) -> tuple[bool, ...]:
        """Comparable: the greater, the more specific."""
        return tuple(getattr(self, field) is not None for field in SELECTORS)


class Price(Contract):
    """One price of one meter over `[effective_from, effective_until)`."""

    id: Name
    meter: Meter
    select: Selector
    effective_from: HourMs
    effective_until: HourMs | None = None
    per: Annotated[int, Field(ge=1, le=10**18)]
    pricing: Pricing

    @field_validator("meter")
    @classmethod
    def _meter_is_known(cls, meter: str) -> str:
        if meter not in METERS:
            raise ValueError(f"unknown meter {meter!r}; meters are {', '.join(METERS)}")
        return meter

    @model_validator(mode="after")
    def _not_backwards(self) -> Self:
        if self.effective_until is not None and self.effective_until <= self.effective_from:
            raise ValueError(
                f"effective_until: {self.effective_until} is not after effective_from"
                f" {self.effective_from}",
            )
        return self


class PriceBook(Contract):
    """All prices in force, and the table of what is billable by outcome."""

    name: Name
    currency: Currency
    billed_meters: Annotated[tuple[Meter, ...], Field(min_length=1)]
    outcomes: dict[str, Billing]
    prices: Annotated[tuple[Price, ...], Field(max_length=100_000)]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if set(self.outcomes) != set(OUTCOMES):
            missing = sorted(set(OUTCOMES) ^ set(self.outcomes))
            raise ValueError(f"outcomes: must name each outcome once; differs in {missing}")
        unknown = sorted(set(self.billed_meters) - set(METERS))
        if unknown:
            raise ValueError(f"billed_meters: unknown meter {unknown[0]!r}")
        if len(set(self.billed_meters)) != len(self.billed_meters):
            raise ValueError(f"billed_meters: a meter stands twice in {self.billed_meters}")
        ids = [price.id for price in self.prices]
        if len(set(ids)) != len(ids):
            twice = sorted({one for one in ids if ids.count(one) > 1})
            raise ValueError(f"prices: id {twice[0]!r} stands twice")
        return self

    def sha256(self) -> str:
        """The book's identity: SHA-256 over its canonical JSON."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()
