"""Estimates what usage costs, or at worst can cost, by a price book; never for invoices. Pure.

Amounts are whole numbers of 10^-9 of the currency's major unit, each request rounded up once: a
sum of them can be kept in 64 bits and added in any order. A price in steps counts at its dearest
step, for what a tenant used before is not known here. So estimates are never below what the same
requests are rated at, but for packages: they count by the unit, and the last one that is begun is
sold whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import lcm
from typing import NamedTuple

from schemas.errors import MoneyError
from schemas.money import parse_price
from schemas.price_kinds import HourlyPricing, PackagePricing, UnitPricing
from schemas.price_selection import Dimensions, PriceIndex
from schemas.prices import SELECTORS, Price, PriceBook
from schemas.units import MS_PER_HOUR
from schemas.usage import TOKEN_METERS

ESTIMATED_METERS = (*TOKEN_METERS, "gpu_ns", "requests")
"""What one request can be seen to have used as soon as it is over, in the order of quantities."""
INPUT_METERS = ("input_uncached_tokens", "input_cache_read_tokens", "input_cache_write_tokens")
OUTPUT_METERS = ("output_text_tokens", "output_reasoning_tokens")
AMOUNT_SCALE = 10**9
_E12_PER_E9 = 1_000
_TARIFFS_MAX = 100_000
_UNKNOWN = ""


class Estimate(NamedTuple):
    """What one request or row costs; `unpriced` says that some of it has no price."""

    amount_e9: int
    unpriced: bool


@dataclass(frozen=True, slots=True)
class WorstCase:
    """The most that a request may use. Dimensions that are not known yet are empty."""

    tenant: str
    project: str
    model: str
    service_tier: str
    input_tokens: int
    output_tokens: int
    region: str = _UNKNOWN
    gpu_type: str = _UNKNOWN


@dataclass(frozen=True, slots=True)
class Tariff:
    """Prices of `ESTIMATED_METERS` in one hour; 0 weighs what has no price, or is not billed.

    `without_price` are the places of billed meters that no price is found for.
    """

    weights: tuple[int, ...]
    divisor: int
    without_price: tuple[int, ...]

    def amount_e9(self, quantities: Sequence[int]) -> int:
        """The sum of quantity times weight, over the divisor, rounded up."""
        return -(-sum(map(int.__mul__, quantities, self.weights)) // self.divisor)


UNBILLED = Tariff(weights=(0,) * len(ESTIMATED_METERS), divisor=1, without_price=())
"""Of requests whose outcome is not billed."""


class Estimator:
    """One price book, ready to be asked for every request."""

    def __init__(self, book: PriceBook) -> None:
        self.currency = book.currency
        self._book = book
        self._index = PriceIndex(book)
        self._billed = {outcome for outcome, word in book.outcomes.items() if word == "billed"}
        self._meters = tuple(one for one in ESTIMATED_METERS if one in book.billed_meters)
        self._tariffs: dict[tuple[Dimensions, int], Tariff] = {}

    def estimate(
        self, dimensions: Dimensions, at_ms: int, outcome: str, quantities: Sequence[int]
    ) -> Estimate:
        """What was used costs so much.

        Args:
            dimensions: Values of `SELECTORS`.
            at_ms: When the request was admitted, in milliseconds since the epoch.
            outcome: How it ended; most are billed, some are not.
            quantities: One for each of `ESTIMATED_METERS`.
        """
        tariff = self.tariff(dimensions, at_ms, outcome)
        unpriced = any(quantities[place] for place in tariff.without_price)
        return Estimate(tariff.amount_e9(quantities), unpriced)

    def tariff(self, dimensions: Dimensions, at_ms: int, outcome: str) -> Tariff:
        """What prices apply to requests of these dimensions, that hour and that outcome."""
        if outcome not in self._billed:
            return UNBILLED
        return self._tariff(dimensions, at_ms - at_ms % MS_PER_HOUR)

    def worst_case_e9(self, asked: WorstCase, at_ms: int) -> int | None:
        """What a request may cost at most; None if no number of tokens bounds it.

        Each meter counts at the dearest price that may turn out to apply: of those that fit what is
        known, none less specific than one that is sure to fit. A model that no price knows (the
        client may have named an adapter) counts as the dearest one. GPU time has no bound, so a
        book that bills it has no worst case.
        """
        if "gpu_ns" in self._meters:
            return None
        hour_ms = at_ms - at_ms % MS_PER_HOUR
        rates = {meter: self._dearest(meter, asked, hour_ms) for meter in self._meters}
        each = (
            _times(_dearest_of(rates, INPUT_METERS), asked.input_tokens),
            _times(_dearest_of(rates, OUTPUT_METERS), asked.output_tokens),
            _times(rates.get("requests"), 1),
        )
        return sum(each)

    def _tariff(self, dimensions: Dimensions, hour_ms: int) -> Tariff:
        known = self._tariffs.get((dimensions, hour_ms))
        if known is not None:
            return known
        timelines = self._index.timelines(dimensions, self._meters)
        prices = {meter: timelines[meter].at(hour_ms) for meter in self._meters}
        found = {meter: price for meter, price in prices.items() if price is not None}
        rates = {meter: _rate(price, hour_ms) for meter, price in found.items()}
        per = lcm(*(rate.per for rate in rates.values()))
        tariff = Tariff(
            weights=tuple(
                rates[meter].e12 * (per // rates[meter].per) if meter in rates else 0
                for meter in ESTIMATED_METERS
            ),
            divisor=per * _E12_PER_E9,
            without_price=tuple(
                place
                for place, meter in enumerate(ESTIMATED_METERS)
                if meter in prices and meter not in found
            ),
        )
        if len(self._tariffs) >= _TARIFFS_MAX:
            self._tariffs.clear()
        self._tariffs[dimensions, hour_ms] = tariff
        return tariff

    def _dearest(self, meter: str, asked: WorstCase, hour_ms: int) -> "_Rate | None":
        if not any(price.select.model == asked.model for price in self._book.prices):
            asked = replace(asked, model=_UNKNOWN)
        in_force = [
            price
            for price in self._book.prices
            if price.meter == meter and price.applies_at(hour_ms)
        ]
        fitting = [price for price in in_force if _may_fit(price, asked)]
        sure = [price.select.rank() for price in fitting if _surely_fits(price, asked)]
        candidates = [price for price in fitting if price.select.rank() >= max(sure, default=())]
        rates = [_rate(price, hour_ms) for price in candidates or in_force]
        return max(rates, key=_Rate.order, default=None)


def _may_fit(price: Price, asked: WorstCase) -> bool:
    """Whether nothing that is known of the request contradicts the price's selection."""
    return all(
        wanted is None or (known := getattr(asked, field, _UNKNOWN)) == _UNKNOWN or wanted == known
        for field in SELECTORS
        for wanted in (getattr(price.select, field),)
    )


def _surely_fits(price: Price, asked: WorstCase) -> bool:
    return all(
        wanted is None or wanted == getattr(asked, field, _UNKNOWN)
        for field in SELECTORS
        for wanted in (getattr(price.select, field),)
    )


class _Rate(NamedTuple):
    """So many 10^-12 for `per` units."""

    e12: int
    per: int

    def order(self) -> Fraction:
        """Comparable, the dearer the greater."""
        return Fraction(self.e12, self.per)


def _rate(price: Price, hour_ms: int) -> _Rate:
    """What a unit costs at most in this hour, in which the price applies."""
    pricing = price.pricing
    if isinstance(pricing, UnitPricing):
        return _Rate(pricing.unit_price_e12, price.per)
    if isinstance(pricing, PackagePricing):
        return _Rate(pricing.package_price_e12, pricing.size)
    if isinstance(pricing, HourlyPricing):
        place = (hour_ms - price.effective_from) // MS_PER_HOUR
        return _Rate(pricing.unit_prices_e12[place], price.per)
    return _Rate(max(step.unit_price_e12 for step in pricing.steps), price.per)


def _dearest_of(rates: Mapping[str, _Rate | None], meters: Sequence[str]) -> _Rate | None:
    found = [rate for meter in meters if (rate := rates.get(meter)) is not None]
    return max(found, key=_Rate.order, default=None)


def _times(rate: _Rate | None, quantity: int) -> int:
    """In 10^-9, rounded up."""
    if rate is None:
        return 0
    return -(-quantity * rate.e12 // (rate.per * _E12_PER_E9))


def parse_amount_e9(text: str) -> int:
    """Read an amount such as `250.50` as 10^-9 of the major unit.

    Raises:
        MoneyError: If it is no plain decimal, or has more than nine decimals.
    """
    amount_e12 = parse_price(text)
    if amount_e12 % _E12_PER_E9:
        raise MoneyError(f"an amount has at most nine decimals, not {text!r}")
    return amount_e12 // _E12_PER_E9


def format_amount_e9(amount_e9: int, decimals: int = 9) -> str:
    """`1234500000` as `1.234500000`; cut, not rounded, to fewer decimals."""
    sign = "-" if amount_e9 < 0 else ""
    whole, rest = divmod(abs(amount_e9), AMOUNT_SCALE)
    return f"{sign}{whole}.{rest:09d}"[: len(f"{sign}{whole}.") + decimals]
