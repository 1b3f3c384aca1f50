"""A price book with round prices, and budgets, for tests of live spend and admission."""

from typing import Any

from schemas.budgets import Budget, BudgetKind
from schemas.price_kinds import UnitPricing
from schemas.prices import Price, PriceBook, Selector
from schemas.usage import OUTCOMES, TOKEN_METERS

DOLLAR_E9 = 10**9
TOKEN_E9 = {"input": 1_000, "output": 3_000}
"""A million tokens cost 1 or 3 dollars, so one costs so much."""


def _price(meter: str, dollars: int) -> Price:
    return Price(
        id=meter,
        meter=meter,
        select=Selector(),
        effective_from=0,
        per=1_000_000,
        pricing=UnitPricing(kind="unit", unit_price_e12=dollars * 10**12),
    )


SPEND_BOOK = PriceBook(
    name="round",
    currency="USD",
    billed_meters=TOKEN_METERS,
    outcomes={one: "unbilled" if one == "refused" else "billed" for one in OUTCOMES},
    prices=tuple(_price(meter, 3 if "output" in meter else 1) for meter in TOKEN_METERS),
)


def budget(tenant: str = "acme", kind: BudgetKind = "monthly", **changes: Any) -> Budget:
    """Ten dollars, with alerts at half and all of it, sent nowhere."""
    usual: dict[str, Any] = {
        "tenant": tenant,
        "kind": kind,
        "currency": "USD",
        "limit_e9": 10 * DOLLAR_E9,
        "thresholds": (50, 100),
        "webhook_url": None,
        "set_by": "ada",
        "set_at_ms": 1_790_812_800_000,
    }
    return Budget(**usual | changes)
