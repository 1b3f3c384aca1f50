"""Rates hourly usage against a price book: exact integers in, exact integers out, nothing rounded.

Pure and free of order: rows may come shuffled, split or merged and the lines stay the same. Per
line the quantities are summed first and priced once, so no remainder exists that could be lost.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from billing.price_models import counted_numerator_e12, hourly_unit_price_e12
from schemas.apportion import apportion
from schemas.billing import HourlyUsage, RatedLine, UnpricedUsage
from schemas.errors import ConservationError
from schemas.periods import Period
from schemas.price_kinds import CountedPricing, HourlyPricing, UnitPricing
from schemas.price_selection import PriceIndex
from schemas.prices import Price, PriceBook
from schemas.usage import METERS, TOKEN_METERS

RATING_VERSION = "rating.v2"
"""Stored in every invoice; changes whenever the same usage and book could rate differently."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_METER_ORDER = {meter: position for position, meter in enumerate(METERS)}

Place = tuple[str, str, str, str]
"""Tenant, model, adapter, service tier: what an invoice shows as one product."""


@dataclass(frozen=True, slots=True)
class MeterTotal:
    """Usage on a meter other than tokens that the book does not bill, such as GPU time."""

    tenant: str
    model: str
    adapter: str
    service_tier: str
    meter: str
    requests: int
    quantity: int


@dataclass(frozen=True, slots=True)
class UsageTotal:
    """Everything a tenant used, billed or not."""

    requests: int
    gpu_ns: int


@dataclass(frozen=True, slots=True)
class Rating:
    """What `rate` found; each tuple is sorted, so equal usage gives equal ratings.

    `requests` of a line counts the requests of the hourly rows in which its meter occurred.
    Tokens of every kind are on some line: those on a meter that the book does not bill are on an
    unbilled one, so that an invoice accounts for all tokens that its tenant used.
    """

    lines: tuple[RatedLine, ...]
    unpriced: tuple[UnpricedUsage, ...]
    information: tuple[MeterTotal, ...]
    totals: dict[str, UsageTotal]


def rate(usage: Iterable[HourlyUsage], book: PriceBook, period: Period) -> Rating:
    """Rate usage of one period.

    Args:
        usage: Hourly rows in any order, of any number of tenants; read once, not kept.
        book: The prices and the table of billable outcomes.
        period: Where the counters of graduated prices begin and end.

    Raises:
        ConservationError: If a row lies outside the period or carries a negative figure.
    """
    tally = _Tally(book, period)
    for row in usage:
        tally.add(row)
    return Rating(
        lines=tuple(sorted(tally.lines(), key=_line_order)),
        unpriced=tuple(tally.unpriced()),
        information=tuple(tally.information()),
        totals=dict(sorted(tally.totals())),
    )


class _Tally:
    """Sums of one rating, by line; filled row by row and read once at the end."""

    def __init__(self, book: PriceBook, period: Period) -> None:
        self._period = period
        self._outcomes = book.outcomes
        self._billed_meters = tuple(m for m in METERS if m in book.billed_meters)
        self._other_meters = tuple(m for m in METERS if m not in book.billed_meters)
        self._unbilled_meters = tuple(dict.fromkeys((*self._billed_meters, "requests")))
        self._index = PriceIndex(book)
        self._prices = {price.id: price for price in book.prices}
        self._hours_ms: dict[datetime, int] = {}
        self._billed: dict[tuple[Place, str, str], list[int]] = defaultdict(_nothing)
        self._hourly_e12: dict[tuple[Place, str, str], int] = defaultdict(int)
        self._unbilled: dict[tuple[Place, str], list[int]] = defaultdict(_nothing)
        self._unpriced: dict[tuple[Place, str], list[int]] = defaultdict(_nothing)
        self._first_unpriced: dict[tuple[Place, str], datetime] = {}
        self._other: dict[tuple[Place, str], list[int]] = defaultdict(_nothing)
        self._totals: dict[str, list[int]] = defaultdict(_nothing)

    def add(self, row: HourlyUsage) -> None:
        """Count one row."""
        quantities = row.quantities
        if row.hour not in self._period:
            raise ConservationError(
                f"usage of hour {row.hour:%Y-%m-%dT%H:%MZ} is not of {self._period.name}"
            )
        if row.requests < 0 or min(quantities.values(), default=0) < 0:
            raise ConservationError(
                f"negative usage of tenant {row.tenant} in hour {row.hour:%Y-%m-%dT%H:%MZ}:"
                f" requests={row.requests} {quantities}"
            )
        place = (row.tenant, row.model, row.adapter, row.service_tier)
        _count(self._totals[row.tenant], row.requests, quantities.get("gpu_ns", 0))
        for meter in self._other_meters:
            if quantity := quantities.get(meter, 0):
                _count(self._other[place, meter], row.requests, quantity)
        if self._outcomes[row.outcome] == "billed":
            self._add_billed(row, place)
        else:
            for meter in self._unbilled_meters:
                if quantity := quantities.get(meter, 0):
                    _count(self._unbilled[place, meter], row.requests, quantity)

    def _add_billed(self, row: HourlyUsage, place: Place) -> None:
        dimensions = (
            row.tenant,
            row.project,
            row.model,
            row.adapter,
            row.service_tier,
            row.gpu_type,
            row.region,
        )
        timelines = self._index.timelines(dimensions, self._billed_meters)
        hour_ms = self._hour_ms(row.hour)
        for meter in self._billed_meters:
            quantity = row.quantities.get(meter, 0)
            if not quantity:
                continue
            price = timelines[meter].at(hour_ms)
            if price is not None:
                _count(self._billed[place, meter, price.id], row.requests, quantity)
                if isinstance(price.pricing, HourlyPricing):
                    unit_price_e12 = hourly_unit_price_e12(price.pricing, price, hour_ms)
                    self._hourly_e12[place, meter, price.id] += quantity * unit_price_e12
                continue
            _count(self._unpriced[place, meter], row.requests, quantity)
            first = self._first_unpriced.setdefault((place, meter), row.hour)
            self._first_unpriced[place, meter] = min(first, row.hour)

    def _hour_ms(self, hour: datetime) -> int:
        if hour not in self._hours_ms:
            self._hours_ms[hour] = (hour - _EPOCH) // _MS
        return self._hours_ms[hour]

    def lines(self) -> Iterator[RatedLine]:
        """Billed and unbilled lines, in no order."""
        numerators_e12 = _numerators_e12(self._billed, self._prices) | self._hourly_e12
        for key, (requests, quantity) in self._billed.items():
            place, meter, price_id = key
            yield self._line(
                place,
                meter,
                price_id=price_id,
                outcome_class="billed",
                requests=requests,
                quantity=quantity,
                per=self._prices[price_id].per,
                numerator_e12=numerators_e12[key],
            )
        free = {key: sums for key, sums in self._other.items() if key[1] in TOKEN_METERS}
        for (place, meter), (requests, quantity) in (self._unbilled | free).items():
            yield self._line(
                place,
                meter,
                price_id="",
                outcome_class="unbilled",
                requests=requests,
                quantity=quantity,
                per=1,
                numerator_e12=0,
            )

    def _line(self, place: Place, meter: str, **amounts: object) -> RatedLine:
        tenant, model, adapter, service_tier = place
        return RatedLine.model_validate(
            {
                "tenant": tenant,
                "period": self._period.name,
                "meter": meter,
                "model": model,
                "adapter": adapter,
                "service_tier": service_tier,
                **amounts,
            }
        )

    def unpriced(self) -> Iterator[UnpricedUsage]:
        """Usage that no price covers, in the order of invoices."""
        for place, meter in sorted(self._unpriced, key=_place_order):
            tenant, model, adapter, service_tier = place
            requests, quantity = self._unpriced[place, meter]
            yield UnpricedUsage(
                tenant=tenant,
                meter=meter,
                model=model,
                adapter=adapter,
                service_tier=service_tier,
                first_hour=f"{self._first_unpriced[place, meter]:%Y-%m-%dT%H:%MZ}",
                requests=requests,
                quantity=quantity,
            )

    def information(self) -> Iterator[MeterTotal]:
        """Other usage on meters that the book does not bill, in the order of invoices."""
        others = [key for key in self._other if key[1] not in TOKEN_METERS]
        for place, meter in sorted(others, key=_place_order):
            requests, quantity = self._other[place, meter]
            yield MeterTotal(*place, meter, requests, quantity)

    def totals(self) -> Iterator[tuple[str, UsageTotal]]:
        """Everything used, by tenant."""
        for tenant, (requests, gpu_ns) in self._totals.items():
            yield tenant, UsageTotal(requests, gpu_ns)


def _numerators_e12(
    billed: dict[tuple[Place, str, str], list[int]], prices: dict[str, Price]
) -> dict[tuple[Place, str, str], int]:
    """The exact amount of each billed line, as a numerator over its price's `per`; hourly ones not.

    A price that counts in steps or packages counts all lines of its tenant together; what they
    cost is then shared by quantity, so that no line gets the cheap steps because its model sorts
    first.
    """
    numerators_e12: dict[tuple[Place, str, str], int] = {}
    counted: dict[str, CountedPricing] = {}
    shared: dict[tuple[str, str], list[tuple[Place, str, str]]] = defaultdict(list)
    for key, (_, quantity) in billed.items():
        place, _, price_id = key
        pricing = prices[price_id].pricing
        if isinstance(pricing, UnitPricing):
            numerators_e12[key] = quantity * pricing.unit_price_e12
        elif not isinstance(pricing, HourlyPricing):
            counted[price_id] = pricing
            shared[place[0], price_id].append(key)
    for (_, price_id), keys in shared.items():
        quantities = [billed[key][1] for key in keys]
        together_e12 = counted_numerator_e12(counted[price_id], sum(quantities))
        ties = ["|".join((*place, meter)) for place, meter, _ in keys]
        parts = apportion(together_e12, quantities, ties)
        numerators_e12.update(zip(keys, parts, strict=True))
    return numerators_e12


def _nothing() -> list[int]:
    return [0, 0]


def _count(sums: list[int], first: int, second: int) -> None:
    sums[0] += first
    sums[1] += second


def _place_order(key: tuple[Place, str]) -> tuple[Place, int]:
    place, meter = key
    return place, _METER_ORDER[meter]


def _line_order(line: RatedLine) -> tuple[Place, int, str, str]:
    place = (line.tenant, line.model, line.adapter, line.service_tier)
    return place, _METER_ORDER[line.meter], line.price_id, line.outcome_class
