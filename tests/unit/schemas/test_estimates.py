"""Estimates: never below what a request is rated at, and worst cases never below estimates."""

import pytest

from schemas.errors import MoneyError
from schemas.estimates import (
    ESTIMATED_METERS,
    Estimate,
    Estimator,
    WorstCase,
    format_amount_e9,
    parse_amount_e9,
)
from schemas.price_kinds import (
    GraduatedPricing,
    HourlyPricing,
    PackagePricing,
    PriceStep,
    UnitPricing,
)
from schemas.prices import Price, PriceBook, Selector
from schemas.usage import OUTCOMES, TOKEN_METERS

MILLION = 1_000_000
DIMENSIONS = ("acme", "chatbot", "llama", "", "standard", "h100", "eu")
ASKED = WorstCase("acme", "chatbot", "llama", "standard", input_tokens=1_000, output_tokens=500)


def price(name: str, meter: str, dollars_e12: int, **changes: object) -> Price:
    selection = {field: changes.pop(field) for field in list(changes) if field in SELECTED}
    usual: dict[str, object] = {
        "id": name,
        "meter": meter,
        "select": Selector.model_validate(selection),
        "effective_from": 0,
        "per": MILLION,
        "pricing": UnitPricing(kind="unit", unit_price_e12=dollars_e12),
    }
    return Price.model_validate(usual | changes)


SELECTED = set(Selector.model_fields)


def book(*prices: Price, **changes: object) -> PriceBook:
    usual: dict[str, object] = {
        "name": "test",
        "currency": "USD",
        "billed_meters": TOKEN_METERS,
        "outcomes": {one: "unbilled" if one == "refused" else "billed" for one in OUTCOMES},
        "prices": prices,
    }
    return PriceBook.model_validate(usual | changes)


def used(**tokens: int) -> tuple[int, ...]:
    return tuple({"requests": 1, **tokens}.get(meter, 0) for meter in ESTIMATED_METERS)


INPUT = price("in", "input_uncached_tokens", 10**12)
CACHED = price("cached", "input_cache_read_tokens", 10**11)
WRITTEN = price("written", "input_cache_write_tokens", 10**12)
OUTPUT = price("out", "output_text_tokens", 3 * 10**12)
REASONING = price("think", "output_reasoning_tokens", 3 * 10**12)
USUAL = (INPUT, CACHED, WRITTEN, OUTPUT, REASONING)


def test_tokens_cost_their_price() -> None:
    estimate = Estimator(book(*USUAL)).estimate(
        DIMENSIONS, 0, "stop", used(input_uncached_tokens=7, output_text_tokens=2)
    )
    assert estimate == Estimate(7 * 1_000 + 2 * 3_000, unpriced=False)


def test_each_request_is_rounded_up_once() -> None:
    dust = price("in", "input_uncached_tokens", 1)
    estimate = Estimator(book(dust)).estimate(DIMENSIONS, 0, "stop", used(input_uncached_tokens=5))
    assert estimate.amount_e9 == 1


def test_outcome_that_is_not_billed_costs_nothing() -> None:
    estimate = Estimator(book()).estimate(DIMENSIONS, 0, "refused", used(input_uncached_tokens=7))
    assert estimate == Estimate(0, unpriced=False)


def test_usage_without_a_price_says_so() -> None:
    estimate = Estimator(book(INPUT)).estimate(
        DIMENSIONS, 0, "stop", used(input_uncached_tokens=7, output_text_tokens=2)
    )
    assert estimate == Estimate(7_000, unpriced=True)


def test_graduated_price_counts_at_its_dearest_step() -> None:
    steps = (PriceStep(unit_price_e12=10**12, up_to=10), PriceStep(unit_price_e12=2 * 10**12))
    rising = price(
        "in", "input_uncached_tokens", 0, pricing=GraduatedPricing(kind="graduated", steps=steps)
    )
    estimate = Estimator(book(rising)).estimate(
        DIMENSIONS, 0, "stop", used(input_uncached_tokens=7)
    )
    assert estimate.amount_e9 == 7 * 2_000


def test_package_counts_by_the_unit() -> None:
    packed = price(
        "in",
        "input_uncached_tokens",
        0,
        per=1,
        pricing=PackagePricing(kind="package", size=1_000, package_price_e12=10**12),
    )
    estimate = Estimator(book(packed)).estimate(
        DIMENSIONS, 0, "stop", used(input_uncached_tokens=7)
    )
    assert estimate.amount_e9 == 7 * 10**6


def test_hourly_price_is_that_of_the_hour_of_admission() -> None:
    spot = price(
        "in",
        "input_uncached_tokens",
        0,
        effective_until=2 * 3_600_000,
        pricing=HourlyPricing(kind="hourly", unit_prices_e12=(10**12, 4 * 10**12)),
    )
    estimator = Estimator(book(spot, billed_meters=("input_uncached_tokens",)))
    quantities = used(input_uncached_tokens=7)
    assert estimator.estimate(DIMENSIONS, 3_599_999, "stop", quantities).amount_e9 == 7_000
    assert estimator.estimate(DIMENSIONS, 3_600_000, "stop", quantities).amount_e9 == 28_000
    assert estimator.worst_case_e9(ASKED, 3_600_000) == 1_000 * 4_000


def test_worst_case_counts_input_and_output_at_their_dearest_meter() -> None:
    assert Estimator(book(*USUAL)).worst_case_e9(ASKED, 0) == 1_000 * 1_000 + 500 * 3_000


def test_worst_case_counts_the_request_itself() -> None:
    fee = price("fee", "requests", 10**12, per=1)
    found = Estimator(book(fee, billed_meters=("requests",))).worst_case_e9(ASKED, 0)
    assert found == 10**9


def test_tenants_own_price_is_the_worst_case_where_it_is_sure_to_apply() -> None:
    own = price("own", "input_uncached_tokens", 5 * 10**11, tenant="acme")
    found = Estimator(book(INPUT, own, billed_meters=("input_uncached_tokens",))).worst_case_e9(
        ASKED, 0
    )
    assert found == 1_000 * 500


def test_price_by_something_that_is_not_known_yet_counts_if_it_is_dearer() -> None:
    elsewhere = price("us", "input_uncached_tokens", 9 * 10**12, region="us")
    found = Estimator(
        book(INPUT, elsewhere, billed_meters=("input_uncached_tokens",))
    ).worst_case_e9(ASKED, 0)
    assert found == 1_000 * 9_000


def test_model_that_no_price_names_may_be_any_adapter() -> None:
    adapter = price("fine", "input_uncached_tokens", 9 * 10**12, model="llama", adapter="fine")
    found = Estimator(book(INPUT, adapter, billed_meters=("input_uncached_tokens",))).worst_case_e9(
        WorstCase("acme", "chatbot", "fine", "standard", 1_000, 0), 0
    )
    assert found == 1_000 * 9_000


def test_book_that_bills_gpu_time_has_no_worst_case() -> None:
    assert Estimator(book(*USUAL, billed_meters=("gpu_ns",))).worst_case_e9(ASKED, 0) is None


def test_price_that_has_ended_does_not_count() -> None:
    ended = price("in", "input_uncached_tokens", 10**12, effective_until=3_600_000)
    estimator = Estimator(book(ended))
    quantities = used(input_uncached_tokens=7)
    assert estimator.estimate(DIMENSIONS, 3_599_999, "stop", quantities).amount_e9 == 7_000
    assert estimator.estimate(DIMENSIONS, 3_600_000, "stop", quantities).unpriced


def test_amounts_are_read_and_written_with_nine_decimals() -> None:
    assert parse_amount_e9("250.5") == 250_500_000_000
    assert format_amount_e9(250_500_000_000) == "250.500000000"
    assert format_amount_e9(-1, 4) == "-0.0000"
    with pytest.raises(MoneyError, match="nine decimals"):
        parse_amount_e9("0.0000000001")
