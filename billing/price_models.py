"""What usage costs under each kind of price: exact numerators over the price's `per`; pure."""

from typing import assert_never

from schemas.price_kinds import (
    CountedPricing,
    GraduatedPricing,
    HourlyPricing,
    PackagePricing,
    VolumePricing,
)
from schemas.prices import Price
from schemas.units import MS_PER_HOUR


def counted_numerator_e12(pricing: CountedPricing, quantity: int) -> int:
    """What all units of one counter cost together.

    Args:
        pricing: A kind whose lines count together.
        quantity: Units of the counter, zero or more.
    """
    if isinstance(pricing, GraduatedPricing):
        return _graduated_e12(pricing, quantity)
    if isinstance(pricing, VolumePricing):
        return quantity * volume_unit_price_e12(pricing, quantity)
    if isinstance(pricing, PackagePricing):
        begun = -(-quantity // pricing.size)
        return begun * pricing.package_price_e12
    assert_never(pricing)


def volume_unit_price_e12(pricing: VolumePricing, quantity: int) -> int:
    """The price of the step that the counter ends in; it holds for all units."""
    return next(
        step.unit_price_e12
        for step in pricing.steps
        if step.up_to is None or quantity <= step.up_to
    )


def hourly_unit_price_e12(pricing: HourlyPricing, price: Price, hour_ms: int) -> int:
    """The price of the hour that starts at `hour_ms`, in which `price` is in force."""
    return pricing.unit_prices_e12[(hour_ms - price.effective_from) // MS_PER_HOUR]


def _graduated_e12(pricing: GraduatedPricing, quantity: int) -> int:
    numerator_e12 = 0
    below = 0
    for step in pricing.steps:
        ceiling = quantity if step.up_to is None else min(quantity, step.up_to)
        numerator_e12 += max(ceiling - below, 0) * step.unit_price_e12
        below = max(ceiling, below)
    return numerator_e12
