"""How figures read on invoices and statements: meters, quantities, prices; exact, never rounded."""

from collections.abc import Sequence
from fractions import Fraction

from schemas.billing import RatedLine, UnpricedUsage
from schemas.money import format_minor, format_price
from schemas.price_kinds import (
    HourlyPricing,
    PackagePricing,
    PriceStep,
    UnitPricing,
    VolumePricing,
)
from schemas.prices import Price
from schemas.units import NS_PER_HOUR, NS_PER_S

METER_WORDS = {
    "input_uncached_tokens": "input tokens",
    "input_cache_read_tokens": "cached input tokens",
    "input_cache_write_tokens": "cache write tokens",
    "output_text_tokens": "output tokens",
    "output_reasoning_tokens": "reasoning output tokens",
    "gpu_ns": "GPU-seconds",
    "requests": "requests",
    "reserved_gpu_ns": "reserved GPU-seconds",
}
_COUNTED_IN_NS = frozenset({"gpu_ns", "reserved_gpu_ns"})
_STEPS_SHOWN_MAX = 4
DESCRIPTION_MAX = 500
"""Characters that Stripe keeps of a line's text."""


def quantity_text(quantity: int, meter: str) -> str:
    """`1234567` tokens as `1,234,567`; GPU time in seconds, to the nanosecond."""
    if meter not in _COUNTED_IN_NS:
        return f"{quantity:,}"
    whole, rest_ns = divmod(quantity, NS_PER_S)
    return f"{whole:,}.{rest_ns:09d}" if rest_ns else f"{whole:,}"


def money_text(amount_minor: int, currency: str) -> str:
    """`1234567` in USD as `12,345.67`."""
    whole, point, decimals = format_minor(amount_minor, currency).partition(".")
    sign, digits = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
    return f"{sign}{int(digits):,}{point}{decimals}"


def exact_text(amount: Fraction) -> str:
    """An exact amount as a plain decimal; as a fraction where no decimal is exact."""
    scale, rest = 0, amount.denominator
    for factor in (10, 5, 2):
        while rest % factor == 0:
            rest //= factor
            scale += 1
    if rest != 1:
        return f"{amount.numerator:,}/{amount.denominator:,}"
    digits = f"{abs(amount.numerator) * 10**scale // amount.denominator:0{scale + 1}d}"
    whole, decimals = digits[: len(digits) - scale], digits[len(digits) - scale :].rstrip("0")
    sign = "-" if amount < 0 else ""
    return f"{sign}{int(whole):,}.{decimals:0<2}"


def per_text(price: Price) -> str:
    """What a price is the price of: `1,000,000`, `GPU-hour`, `started 1,000`."""
    if isinstance(price.pricing, PackagePricing):
        return f"started {_count_text(price.pricing.size, price.meter)}"
    return _count_text(price.per, price.meter)


def _count_text(count: int, meter: str) -> str:
    if meter not in _COUNTED_IN_NS:
        return f"{count:,}"
    hours, rest_ns = divmod(count, NS_PER_HOUR)
    if rest_ns:
        return f"{count:,} GPU-ns"
    return "GPU-hour" if hours == 1 else f"{hours:,} GPU-hours"


def price_text(price: Price) -> str:
    """A price as a person reads it: `0.90`, its steps, or the range of its hours."""
    pricing = price.pricing
    if isinstance(pricing, UnitPricing):
        return _unit_price_text(pricing.unit_price_e12)
    if isinstance(pricing, PackagePricing):
        return _unit_price_text(pricing.package_price_e12)
    if isinstance(pricing, HourlyPricing):
        low, high = min(pricing.unit_prices_e12), max(pricing.unit_prices_e12)
        return f"{_unit_price_text(low)} to {_unit_price_text(high)} by the hour"
    for_all = ", for all units" if isinstance(pricing, VolumePricing) else ""
    return _steps_text(pricing.steps, price.meter) + for_all


def has_one_price(price: Price) -> bool:
    """Whether one figure says what every unit costs."""
    return isinstance(price.pricing, UnitPricing | PackagePricing)


def _steps_text(steps: Sequence[PriceStep], meter: str) -> str:
    if len(steps) > _STEPS_SHOWN_MAX:
        first, last = (_unit_price_text(step.unit_price_e12) for step in (steps[0], steps[-1]))
        return f"{len(steps)} steps from {first} to {last}"
    return ", ".join(_step_text(step, meter) for step in steps)


def _unit_price_text(unit_price_e12: int) -> str:
    """With at least two decimals, as prices are written, and as many more as it has."""
    whole, _, decimals = format_price(unit_price_e12).partition(".")
    return f"{int(whole):,}.{decimals:0<2}"


def _step_text(step: PriceStep, meter: str) -> str:
    unit_price = _unit_price_text(step.unit_price_e12)
    if step.up_to is None:
        return f"{unit_price} beyond"
    return f"{unit_price} up to {quantity_text(step.up_to, meter)}"


def product_text(line: RatedLine | UnpricedUsage) -> str:
    """Model, adapter and service tier: `llama-3.1-8b + support-bot (batch)`."""
    adapter = f" + {line.adapter}" if line.adapter else ""
    return f"{line.model}{adapter} ({line.service_tier})"


def unpriced_text(unpriced: Sequence[UnpricedUsage], book_name: str) -> str:
    """Why an invoice is held: what was used without a price, how much of it, since when."""
    listed = "; ".join(
        f"{quantity_text(one.quantity, one.meter)} {METER_WORDS[one.meter]} in {one.requests:,}"
        f" requests of {product_text(one)} since {one.first_hour}"
        for one in unpriced
    )
    return f"no price in book {book_name} for {listed}"


def describe(line: RatedLine, price: Price, currency: str) -> str:
    """One sentence per invoice line: what, how much of it, at which price.

    At most `DESCRIPTION_MAX` characters; product names longer than fits are cut at the end.
    """
    used = f"{quantity_text(line.quantity, line.meter)} {METER_WORDS[line.meter]}"
    comma = "" if has_one_price(price) else ","
    cost = f"{currency} {price_text(price)}{comma} per {per_text(price)}"
    room = DESCRIPTION_MAX - len(used) - len(cost) - len(":  at ")
    return f"{product_text(line)[:room]}: {used} at {cost}"
