"""How a price counts: by the unit, in steps, by the package, or by the hour of use.

A counter belongs to one tenant, price and period; unit prices are integers scaled by 10^12.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schemas.fields import Contract
from schemas.money import UNIT_PRICE_E12_MAX

UnitPriceE12 = Annotated[int, Field(ge=0, le=UNIT_PRICE_E12_MAX)]
STEPS_MAX = 64
HOURS_PRICED_MAX = 9_000
"""A year of hours and a little more."""


class UnitPricing(Contract):
    """Every unit costs the same."""

    kind: Literal["unit"]
    unit_price_e12: UnitPriceE12


class PriceStep(Contract):
    """Units above the step before and up to `up_to` (inclusive; None: without end)."""

    unit_price_e12: UnitPriceE12
    up_to: Annotated[int, Field(ge=1)] | None = None


class _Stepped(Contract):
    """Prices by how much of the counter is used; the last step has no end."""

    steps: Annotated[tuple[PriceStep, ...], Field(min_length=1, max_length=STEPS_MAX)]

    @model_validator(mode="after")
    def _steps_rise_and_end(self) -> Self:
        bounds = [step.up_to for step in self.steps]
        if bounds[-1] is not None or None in bounds[:-1]:
            raise ValueError("steps: the last step, and only it, has no up_to")
        limits = [bound for bound in bounds if bound is not None]
        if limits != sorted(set(limits)):
            raise ValueError(f"steps: up_to must rise: {limits}")
        return self


class GraduatedPricing(_Stepped):
    """Each unit costs what its own step says; included units are a first step at 0."""

    kind: Literal["graduated"]


class VolumePricing(_Stepped):
    """All units cost what the step says that the last of them falls in.

    More usage can cost less: the total falls where a cheaper step begins.
    """

    kind: Literal["volume"]


class PackagePricing(Contract):
    """Sold in packages of `size` units; one that is begun costs as much as a full one."""

    kind: Literal["package"]
    size: Annotated[int, Field(ge=1, le=10**18)]
    package_price_e12: UnitPriceE12


class HourlyPricing(Contract):
    """Each hour has its own unit price, from the price's first hour to its last: spot and flex."""

    kind: Literal["hourly"]
    unit_prices_e12: Annotated[
        tuple[UnitPriceE12, ...], Field(min_length=1, max_length=HOURS_PRICED_MAX)
    ]


CountedPricing = GraduatedPricing | VolumePricing | PackagePricing
"""Kinds whose lines count together."""
Pricing = Annotated[
    UnitPricing | GraduatedPricing | VolumePricing | PackagePricing | HourlyPricing,
    Field(discriminator="kind"),
]
