"""Rates a period a second time, in ClickHouse SQL, and compares with the first to the last digit.

It shares no line with `billing.rating`: it finds the prices by a join, sums in Int256 in the
ledger, and knows nothing of lines. What both say of each tenant and price must be equal before an
invoice is made.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from billing.rating import Rating
from infra.clickhouse.client import Client, external
from schemas.errors import ConservationError
from schemas.periods import Period
from schemas.price_kinds import HourlyPricing, PackagePricing, UnitPricing
from schemas.prices import SELECTORS, Price, PriceBook
from schemas.units import MS_PER_HOUR

NO_PRICE = ""
"""Stands for the price of usage that no price covers."""
Key = tuple[str, str, str]
"""Tenant, meter, price id."""

_STRUCTURE = (
    "id String, meter String, "
    + ", ".join(f"{name} String" for name in SELECTORS)
    + ", hours Array(UInt8), rank UInt16, from_ms Int64, until_ms Int64, kind String,"
    " size Int256, bounds Array(Int256), unit_prices Array(Int256)"
)
_FOREVER_MS = 2**62
_TEMPLATE = """
WITH
used AS (
    SELECT <width>, hour, measure.1 AS meter, sum(toInt256(measure.2)) AS quantity
    FROM usage_hourly
    ARRAY JOIN arrayZip({meters:Array(String)}, [<measures>]) AS measure
    WHERE hour >= {start:DateTime('UTC')} AND hour < {end:DateTime('UTC')}
        <mine> AND has({billed:Array(String)}, outcome) AND measure.2 != 0
    GROUP BY <width>, hour, meter
),
matching AS (
    SELECT <used width>, used.meter AS meter,
        prices.id AS id, prices.rank AS rank, prices.from_ms AS from_ms,
        prices.until_ms AS until_ms, prices.hours AS hours
    FROM (SELECT DISTINCT <width>, meter FROM used) AS used
    INNER JOIN prices ON prices.meter = used.meter
    WHERE <matches>
),
in_force AS (
    SELECT <width>, hour, meter, quantity, toInt64(toUnixTimestamp(hour)) * 1000 AS hour_ms,
        from_ms <= hour_ms AND hour_ms < until_ms
            AND (empty(hours) OR has(hours, toUInt8((toDayOfWeek(hour) - 1) * 24 + toHour(hour))))
            AND id != '' AS applies,
        id, rank, from_ms
    FROM used LEFT JOIN matching USING (<width>, meter)
),
chosen AS (
    SELECT <width>, hour_ms, meter, any(quantity) AS quantity,
        argMaxIf(id, (rank, from_ms), applies) AS id
    FROM in_force GROUP BY <width>, hour_ms, meter
),
counted AS (
    SELECT chosen.tenant AS tenant, chosen.meter AS meter, chosen.id AS id,
        sum(chosen.quantity) AS total, any(prices.kind) AS how, any(prices.size) AS package,
        any(prices.bounds) AS ends, any(prices.unit_prices) AS each,
        sum(if(prices.kind = 'hourly', chosen.quantity * arrayElement(prices.unit_prices,
            intDiv(chosen.hour_ms - prices.from_ms, <ms per hour>) + 1), 0)) AS by_hour
    FROM chosen LEFT JOIN prices ON prices.id = chosen.id
    GROUP BY tenant, meter, id
)
SELECT tenant, meter, id, toString(total), toString(multiIf(
    how = 'unit', total * each[1],
    how = 'graduated', arraySum(
        (unit_price, upper, lower) -> unit_price * greatest(least(total, upper) - lower, 0),
        each, ends, arrayPopBack(arrayPushFront(ends, 0))),
    how = 'volume', total * arrayFirst((unit_price, upper) -> total <= upper, each, ends),
    how = 'package', intDiv(total + package - 1, package) * each[1],
    by_hour))
FROM counted
"""


@dataclass(frozen=True, slots=True)
class PricedUsage:
    """Units of one tenant under one price, and what they cost together, over the price's `per`."""

    quantity: int
    numerator_e12: int


@dataclass(frozen=True, slots=True)
class SecondRating:
    """What the ledger's own arithmetic makes of a period, by tenant."""

    tenants: Mapping[str, Mapping[Key, PricedUsage]] = field(default_factory=dict)

    def check(self, rating: Rating, tenant: str) -> None:
        """Hold the first rating of a tenant against this one.

        Raises:
            ConservationError: With the first difference.
        """
        ours, theirs = _by_price(rating, tenant), self.tenants.get(tenant, {})
        for key in sorted(ours.keys() | theirs.keys()):
            if ours.get(key) != theirs.get(key):
                _, meter, price_id = key
                raise ConservationError(
                    f"two ratings of {tenant} differ: {meter} under"
                    f" {price_id or 'no price'} is {_said(ours.get(key))} by the first and"
                    f" {_said(theirs.get(key))} by the ledger's own sums"
                )

    def refuse_others(self, tenants: Collection[str]) -> None:
        """Raise `ConservationError` if the ledger rated a tenant that is none of these."""
        others = sorted(set(self.tenants) - set(tenants))
        if others:
            raise ConservationError(f"the ledger rates {others[0]}, whose usage was not read")


def rate_in_ledger(
    ledger: Client, book: PriceBook, period: Period, *, tenant: str | None = None
) -> SecondRating:
    """Rate a period's published usage in ClickHouse.

    Args:
        ledger: A client on the ledger's database.
        book: The prices; the book must be one that was imported, without overlaps.
        period: Its hours are rated.
        tenant: Rates only this tenant.
    """
    found = ledger.query(
        _query(_measured(book), one_tenant=tenant is not None),
        parameters={
            "meters": _measured(book),
            "billed": [one for one, billing in book.outcomes.items() if billing == "billed"],
            "start": period.start,
            "end": period.end,
            "tenant": tenant or "",
        },
        external_data=external(prices=(_STRUCTURE, map(_row, book.prices))),
        settings={"join_use_nulls": 0},
    )
    tenants: dict[str, dict[Key, PricedUsage]] = defaultdict(dict)
    for name, meter, price_id, quantity, numerator_e12 in found.result_rows:
        priced = PricedUsage(int(quantity), int(numerator_e12) if price_id else 0)
        tenants[name][name, meter, price_id] = priced
    return SecondRating(tenants)


def _query(measured: Iterable[str], *, one_tenant: bool) -> str:
    """The query with our own names of columns in it; values travel as parameters."""
    words = {
        "<width>": ", ".join(SELECTORS),
        "<used width>": ", ".join(f"used.{name} AS {name}" for name in SELECTORS),
        "<matches>": " AND ".join(
            f"(prices.{name} = '' OR prices.{name} = used.{name})" for name in SELECTORS
        ),
        "<measures>": ", ".join(f"toInt64({meter})" for meter in measured),
        "<mine>": "AND tenant = {tenant:String}" if one_tenant else "",
        "<ms per hour>": str(MS_PER_HOUR),
    }
    query = _TEMPLATE
    for word, meaning in words.items():
        query = query.replace(word, meaning)
    return query


def _measured(book: PriceBook) -> list[str]:
    """Billed meters that hourly usage measures; reserved GPU time is not among them."""
    return [meter for meter in book.billed_meters if meter != "reserved_gpu_ns"]


def _by_price(rating: Rating, tenant: str) -> dict[Key, PricedUsage]:
    sums: dict[Key, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for key, quantity, numerator_e12 in _parts(rating, tenant):
        before = sums[key]
        sums[key] = (before[0] + quantity, before[1] + numerator_e12)
    return {key: PricedUsage(*both) for key, both in sums.items()}


def _parts(rating: Rating, tenant: str) -> Iterator[tuple[Key, int, int]]:
    for line in rating.lines:
        if line.tenant == tenant and line.outcome_class == "billed":
            yield (tenant, line.meter, line.price_id), line.quantity, line.numerator_e12
    for one in rating.unpriced:
        if one.tenant == tenant:
            yield (tenant, one.meter, NO_PRICE), one.quantity, 0


def _said(priced: PricedUsage | None) -> str:
    if priced is None:
        return "nothing"
    return f"{priced.quantity} units for {priced.numerator_e12} e-12"


def _row(price: Price) -> list[object]:
    pricing = price.pricing
    size, bounds = 0, list[int]()
    if isinstance(pricing, UnitPricing):
        unit_prices: Iterable[int] = [pricing.unit_price_e12]
    elif isinstance(pricing, PackagePricing):
        size, unit_prices = pricing.size, [pricing.package_price_e12]
    elif isinstance(pricing, HourlyPricing):
        unit_prices = pricing.unit_prices_e12
    else:
        unit_prices = [step.unit_price_e12 for step in pricing.steps]
        bounds = [_FOREVER_MS**2 if step.up_to is None else step.up_to for step in pricing.steps]
    rank = int("".join(str(int(one)) for one in price.select.rank()), 2)
    return [
        price.id,
        price.meter,
        *(getattr(price.select, name) or "" for name in SELECTORS),
        _array(price.select.hours_of_week or ()),
        rank,
        price.effective_from,
        _FOREVER_MS if price.effective_until is None else price.effective_until,
        pricing.kind,
        size,
        _array(bounds),
        _array(unit_prices),
    ]


def _array(numbers: Iterable[int]) -> str:
    return f"[{','.join(map(str, numbers))}]"
