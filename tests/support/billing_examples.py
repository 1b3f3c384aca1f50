"""Small usage, prices and books to build tests from: one valid object, change one field."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.billing import HourlyUsage
from schemas.money import parse_price
from schemas.periods import parse_period
from schemas.price_kinds import (
    GraduatedPricing,
    HourlyPricing,
    PackagePricing,
    PriceStep,
    Pricing,
    UnitPricing,
    VolumePricing,
)
from schemas.prices import Price, PriceBook, Selector
from schemas.usage import OUTCOMES, TOKEN_METERS

OCTOBER = parse_period("2026-10")
START_MS = 1_790_812_800_000
"""2026-10-01T00:00Z."""
HOUR_MS = 3_600_000
BILLED = ("stop", "length", "client_gone")


def usage(hour: int = 0, **changes: Any) -> HourlyUsage:
    """One hourly row: one request of llama-3.1-8b by acme, nothing used unless changed."""
    quantities = changes.pop("quantities", {})
    row = HourlyUsage(
        hour=datetime(2026, 10, 1, tzinfo=UTC) + timedelta(hours=hour),
        run_id=f"{hour:064x}",
        tenant="acme",
        project="chat",
        api_key="key-1",
        model="llama-3.1-8b",
        adapter="",
        service_tier="standard",
        gpu_type="H100",
        region="eu-1",
        outcome="stop",
        requests=1,
        quantities={},
    )
    row = replace(row, **changes)
    measured = dict.fromkeys((*TOKEN_METERS, "gpu_ns"), 0) | {"requests": row.requests}
    return replace(row, quantities=measured | quantities)


def unit_price(price_id: str, text: str, **changes: Any) -> Price:
    """A price by the unit; of input tokens, per million, without end, unless changed."""
    pricing = UnitPricing(kind="unit", unit_price_e12=parse_price(text))
    return _price(price_id, pricing, changes)


def graduated_price(
    price_id: str, steps: Iterable[tuple[int | None, str]], **changes: Any
) -> Price:
    """A price by steps of (up to, price)."""
    made = tuple(PriceStep(up_to=up_to, unit_price_e12=parse_price(text)) for up_to, text in steps)
    return _price(price_id, GraduatedPricing(kind="graduated", steps=made), changes)


def volume_price(price_id: str, steps: Iterable[tuple[int | None, str]], **changes: Any) -> Price:
    """A price whose last step reached, of (up to, price), holds for all units."""
    made = tuple(PriceStep(up_to=up_to, unit_price_e12=parse_price(text)) for up_to, text in steps)
    return _price(price_id, VolumePricing(kind="volume", steps=made), changes)


def package_price(price_id: str, text: str, size: int, **changes: Any) -> Price:
    """A price of each begun package of `size` units."""
    pricing = PackagePricing(kind="package", size=size, package_price_e12=parse_price(text))
    return _price(price_id, pricing, {"per": 1} | changes)


def hourly_price(price_id: str, texts: Iterable[str], **changes: Any) -> Price:
    """A price with one unit price for each hour from October's first on."""
    hours = tuple(parse_price(text) for text in texts)
    span = {"effective_from": START_MS, "effective_until": START_MS + len(hours) * HOUR_MS}
    pricing = HourlyPricing(kind="hourly", unit_prices_e12=hours)
    return _price(price_id, pricing, span | changes)


def _price(price_id: str, pricing: Pricing, changes: Any) -> Price:
    fields = {
        "id": price_id,
        "meter": "input_uncached_tokens",
        "select": Selector(),
        "effective_from": 0,
        "effective_until": None,
        "per": 1_000_000,
        "pricing": pricing,
    }
    return Price.model_validate(fields | changes)


def book_of(*prices: Price, **changes: Any) -> PriceBook:
    """A book that bills the meters which it prices."""
    fields: dict[str, Any] = {
        "name": "test-book",
        "currency": "USD",
        "billed_meters": tuple(dict.fromkeys(price.meter for price in prices)),
        "outcomes": {one: "billed" if one in BILLED else "unbilled" for one in OUTCOMES},
        "prices": prices,
    }
    return PriceBook.model_validate(fields | changes)
