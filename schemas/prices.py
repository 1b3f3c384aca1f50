"""The price book: which usage costs what, from when, and which outcome is billed at all.

A book is immutable once imported and is named by the SHA-256 of its canonical JSON. Unit prices
are integers scaled by 10^12 over `per` units of the meter.
"""

import hashlib
from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from schemas.fields import Contract, Currency, Name
from schemas.price_kinds import HourlyPricing, PackagePricing, Pricing
from schemas.units import MS_PER_HOUR
from schemas.usage import METERS, OUTCOMES

Meter = Annotated[str, Field(max_length=64)]
HourMs = Annotated[int, Field(ge=0, le=2**47, multiple_of=MS_PER_HOUR)]
"""The start of a whole UTC hour, in milliseconds since the epoch."""

Billing = Literal["billed", "unbilled"]

SELECTORS = ("tenant", "project", "model", "adapter", "service_tier", "gpu_type", "region")
"""What a price can be narrowed to, the most telling first; hours of the week come after them."""
HOURS_A_WEEK = 168
_EPOCH_HOUR_OF_WEEK = 72
"""1970-01-01 was a Thursday."""


def hour_of_week(hour_ms: int) -> int:
    """0 for the hour that begins on Monday at 00:00 UTC, 167 for the last of Sunday."""
    return (hour_ms // MS_PER_HOUR + _EPOCH_HOUR_OF_WEEK) % HOURS_A_WEEK


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
    hours_of_week: (
        Annotated[
            tuple[Annotated[int, Field(ge=0, lt=HOURS_A_WEEK)], ...],
            Field(min_length=1, max_length=HOURS_A_WEEK),
        ]
        | None
    ) = None

    @field_validator("hours_of_week")
    @classmethod
    def _hours_rise(cls, hours: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if hours is not None and list(hours) != sorted(set(hours)):
            raise ValueError(f"hours_of_week: each once, in order: {hours}")
        return hours

    def narrowed(self) -> tuple[bool, ...]:
        """Which of `SELECTORS` are fixed."""
        return tuple(getattr(self, field) is not None for field in SELECTORS)

    def rank(self) -> tuple[bool, ...]:
        """Comparable: the greater, the more specific."""
        return (*self.narrowed(), self.hours_of_week is not None)

    def fixed(self) -> tuple[str, ...]:
        """The values of those of `SELECTORS` that are fixed, in their order."""
        values: Iterable[str | None] = (getattr(self, field) for field in SELECTORS)
        return tuple(value for value in values if value is not None)


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

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if isinstance(self.pricing, PackagePricing) and self.per != 1:
            raise ValueError(f"per: a package is priced as a whole, so it is 1, not {self.per}")
        if isinstance(self.pricing, HourlyPricing):
            priced = len(self.pricing.unit_prices_e12)
            end = self.effective_from + priced * MS_PER_HOUR
            if self.effective_until != end:
                raise ValueError(
                    f"effective_until: {priced} hourly prices from {self.effective_from} on end at"
                    f" {end}, not at {self.effective_until}"
                )
        return self

    def applies_at(self, hour_ms: int) -> bool:
        """Whether it is in force in the hour that starts at `hour_ms`."""
        if hour_ms < self.effective_from:
            return False
        if self.effective_until is not None and hour_ms >= self.effective_until:
            return False
        hours = self.select.hours_of_week
        return hours is None or hour_of_week(hour_ms) in hours


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
