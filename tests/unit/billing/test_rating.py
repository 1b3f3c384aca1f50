"""Rating: which price applies, what is billed at all, and what has no price."""

from typing import Any

import pytest

from billing.price_models import counted_numerator_e12
from billing.rating import MeterTotal, UsageTotal, rate
from schemas.errors import ConservationError
from schemas.periods import parse_period
from schemas.price_kinds import GraduatedPricing, PriceStep
from schemas.prices import Price, Selector
from tests.support.billing_examples import (
    HOUR_MS,
    OCTOBER,
    START_MS,
    book_of,
    graduated_price,
    unit_price,
    usage,
)

INPUT = "input_uncached_tokens"
E12 = 10**12


def chosen(*prices: Price, **changes: Any) -> str:
    """Which price 10 input tokens are rated at."""
    row = usage(quantities={INPUT: 10}, **changes)
    (line,) = rate([row], book_of(*prices), OCTOBER).lines
    return line.price_id


def test_quantity_times_price_over_per_is_exact() -> None:
    rating = rate(
        [usage(quantities={INPUT: 7}), usage(1, quantities={INPUT: 4})],
        book_of(unit_price("p", "0.000000000001")),
        OCTOBER,
    )
    (line,) = rating.lines
    assert (line.quantity, line.numerator_e12, line.per, line.requests) == (11, 11, 1_000_000, 2)


def test_price_of_the_hour_applies_from_its_start_to_its_end() -> None:
    before = unit_price("before", "1", effective_until=START_MS + 2 * HOUR_MS)
    after = unit_price("after", "2", effective_from=START_MS + 2 * HOUR_MS)
    rows = [usage(hour, quantities={INPUT: 1}) for hour in range(4)]
    lines = rate(rows, book_of(before, after), OCTOBER).lines
    assert {line.price_id: line.quantity for line in lines} == {"before": 2, "after": 2}


def test_usage_before_the_first_price_is_unpriced() -> None:
    late = unit_price("late", "1", effective_from=START_MS + HOUR_MS)
    rating = rate([usage(quantities={INPUT: 1})], book_of(late), OCTOBER)
    assert rating.lines == ()
    assert rating.unpriced[0].first_hour == "2026-10-01T00:00Z"


def test_usage_after_the_last_price_is_unpriced() -> None:
    ended = unit_price("ended", "1", effective_until=START_MS)
    rating = rate([usage(quantities={INPUT: 1})], book_of(ended), OCTOBER)
    assert (rating.lines, len(rating.unpriced)) == ((), 1)


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        (Selector(), Selector(region="eu-1")),
        (Selector(region="eu-1"), Selector(gpu_type="H100")),
        (Selector(gpu_type="H100", region="eu-1"), Selector(service_tier="standard")),
        (Selector(service_tier="standard"), Selector(model="llama-3.1-8b")),
        (Selector(model="llama-3.1-8b", service_tier="standard"), Selector(project="chat")),
        (Selector(project="chat", model="llama-3.1-8b"), Selector(tenant="acme")),
        (Selector(model="llama-3.1-8b"), Selector(model="llama-3.1-8b", region="eu-1")),
    ],
)
def test_most_telling_selector_wins(wide: Selector, narrow: Selector) -> None:
    prices = unit_price("wide", "1", select=wide), unit_price("narrow", "2", select=narrow)
    assert chosen(*prices) == chosen(*reversed(prices)) == "narrow"


def test_selector_of_another_value_does_not_match() -> None:
    other = unit_price("other", "1", select=Selector(model="llama-3.3-70b"))
    assert chosen(unit_price("any", "2"), other) == "any"


def test_price_with_adapter_applies_to_that_adapter_only() -> None:
    prices = (
        unit_price("any", "1"),
        unit_price("adapted", "2", select=Selector(adapter="support-bot")),
    )
    assert chosen(*prices, adapter="support-bot") == "adapted"
    assert chosen(*prices) == "any"


def test_expired_specific_price_gives_way_to_the_general_one() -> None:
    special = unit_price(
        "special", "1", select=Selector(tenant="acme"), effective_until=START_MS + HOUR_MS
    )
    prices = (special, unit_price("general", "2"))
    rows = [usage(hour, quantities={INPUT: 1}) for hour in range(2)]
    lines = rate(rows, book_of(*prices), OCTOBER).lines
    assert {line.price_id for line in lines} == {"special", "general"}


def test_of_equal_prices_the_later_start_wins_then_the_smaller_id() -> None:
    old, new = unit_price("a-old", "1"), unit_price("z-new", "2", effective_from=START_MS)
    assert chosen(old, new) == chosen(new, old) == "z-new"
    twins = unit_price("b", "1"), unit_price("a", "2")
    assert chosen(*twins) == chosen(*reversed(twins)) == "a"


def test_unpriced_usage_is_listed_with_counts_and_first_hour_never_billed_at_zero() -> None:
    elsewhere = unit_price("p", "1", select=Selector(model="llama-3.3-70b"))
    rows = [
        usage(hour, requests=hour, quantities={INPUT: 10 * hour, "requests": hour})
        for hour in (5, 3, 4)
    ]
    rating = rate(rows, book_of(elsewhere), OCTOBER)
    (unpriced,) = rating.unpriced
    assert rating.lines == ()
    assert (unpriced.requests, unpriced.quantity) == (12, 120)
    assert unpriced.first_hour == "2026-10-01T03:00Z"


def test_no_usage_needs_no_price() -> None:
    elsewhere = unit_price("p", "1", select=Selector(model="llama-3.3-70b"))
    assert rate([usage()], book_of(elsewhere), OCTOBER).unpriced == ()


def test_price_of_zero_is_a_price() -> None:
    rating = rate([usage(quantities={INPUT: 5})], book_of(unit_price("free", "0")), OCTOBER)
    assert (rating.unpriced, rating.lines[0].numerator_e12) == ((), 0)


@pytest.mark.parametrize("outcome", ["abort", "error", "engine_death", "refused"])
def test_unbilled_outcome_is_carried_without_amount(outcome: str) -> None:
    row = usage(outcome=outcome, requests=3, quantities={INPUT: 10})
    lines = rate([row], book_of(unit_price("p", "1")), OCTOBER).lines
    assert [(line.meter, line.quantity, line.numerator_e12) for line in lines] == [
        (INPUT, 10, 0),
        ("requests", 3, 0),
    ]
    assert {line.outcome_class for line in lines} == {"unbilled"}


def test_unbilled_usage_needs_no_price() -> None:
    elsewhere = unit_price("p", "1", select=Selector(model="llama-3.3-70b"))
    row = usage(outcome="error", quantities={INPUT: 10})
    assert rate([row], book_of(elsewhere), OCTOBER).unpriced == ()


def test_refused_request_without_tokens_is_still_seen() -> None:
    rating = rate([usage(outcome="refused")], book_of(unit_price("p", "1")), OCTOBER)
    assert [line.meter for line in rating.lines] == ["requests"]


def test_book_may_bill_what_the_default_does_not() -> None:
    outcomes = book_of(unit_price("p", "1")).outcomes | {"abort": "billed"}
    book = book_of(unit_price("p", "1"), outcomes=outcomes)
    (line,) = rate([usage(outcome="abort", quantities={INPUT: 1})], book, OCTOBER).lines
    assert line.outcome_class == "billed"


def test_meter_that_is_not_billed_is_information() -> None:
    row = usage(quantities={"gpu_ns": 9, INPUT: 1})
    rating = rate([row], book_of(unit_price("p", "1")), OCTOBER)
    assert MeterTotal("acme", "llama-3.1-8b", "", "standard", "gpu_ns", 1, 9) in rating.information
    assert {line.meter for line in rating.lines} == {INPUT}


def test_tokens_on_a_meter_that_is_not_billed_are_on_an_unbilled_line() -> None:
    free = "input_cache_read_tokens"
    used = [
        usage(quantities={free: 4, INPUT: 1}),
        usage(outcome="error", quantities={free: 3, INPUT: 2}),
    ]
    rating = rate(used, book_of(unit_price("p", "1")), OCTOBER)
    lines = {(line.meter, line.outcome_class): line.quantity for line in rating.lines}
    assert lines[free, "unbilled"] == 7
    assert lines[INPUT, "unbilled"] == 2
    assert lines[INPUT, "billed"] == 1
    assert free not in {one.meter for one in rating.information}


def test_requests_and_gpu_time_can_be_billed() -> None:
    book = book_of(
        unit_price("each", "0.01", meter="requests", per=1),
        unit_price("hour", "3.99", meter="gpu_ns", per=3_600_000_000_000),
    )
    row = usage(requests=4, quantities={"requests": 4, "gpu_ns": 1_800_000_000_000})
    amounts = {line.meter: line.amount() for line in rate([row], book, OCTOBER).lines}
    assert amounts["requests"] * 100 == 4
    assert amounts["gpu_ns"] * 1000 == 1995


def test_totals_hold_everything_of_every_tenant() -> None:
    rows = [
        usage(requests=2, quantities={"gpu_ns": 5}),
        usage(outcome="error", requests=1, quantities={"gpu_ns": 3}),
        usage(tenant="globex", quantities={"gpu_ns": 1}),
    ]
    totals = rate(rows, book_of(unit_price("p", "1")), OCTOBER).totals
    assert totals == {"acme": UsageTotal(3, 8), "globex": UsageTotal(1, 1)}


def test_lines_stand_in_the_order_of_tenant_model_tier_and_meter() -> None:
    book = book_of(
        unit_price("out", "1", meter="output_text_tokens"), unit_price("in", "1", meter=INPUT)
    )
    rows = [
        usage(
            tenant=tenant,
            model=model,
            service_tier=tier,
            quantities={INPUT: 1, "output_text_tokens": 1},
        )
        for tenant in ("b", "a")
        for model in ("m2", "m1")
        for tier in ("standard", "batch")
    ]
    keys = [
        (line.tenant, line.model, line.service_tier, line.price_id)
        for line in rate(rows, book, OCTOBER).lines
    ]
    assert keys[:4] == [
        ("a", "m1", "batch", "in"),
        ("a", "m1", "batch", "out"),
        ("a", "m1", "standard", "in"),
        ("a", "m1", "standard", "out"),
    ]
    assert [key[:3] for key in keys] == sorted(key[:3] for key in keys)


def test_graduated_counter_runs_over_the_whole_period() -> None:
    price = graduated_price("g", [(10, "3"), (None, "1")], per=1)
    rows = [usage(hour, quantities={INPUT: 4}) for hour in range(5)]
    (line,) = rate(rows, book_of(price), OCTOBER).lines
    assert line.numerator_e12 == (10 * 3 + 10 * 1) * E12


def test_each_tenant_has_its_own_counter() -> None:
    price = graduated_price("g", [(10, "3"), (None, "1")], per=1)
    rows = [usage(tenant=tenant, quantities={INPUT: 10}) for tenant in ("acme", "globex")]
    lines = rate(rows, book_of(price), OCTOBER).lines
    assert [line.numerator_e12 for line in lines] == [30 * E12, 30 * E12]


def test_lines_under_one_counter_share_its_cost_by_quantity() -> None:
    price = graduated_price("g", [(10, "3"), (None, "1")], per=1)
    rows = [
        usage(model="llama-3.1-8b", quantities={INPUT: 5}),
        usage(model="llama-3.3-70b", quantities={INPUT: 15}),
    ]
    lines = rate(rows, book_of(price), OCTOBER).lines
    assert [line.numerator_e12 for line in lines] == [10 * E12, 30 * E12]


def test_price_change_starts_a_new_counter() -> None:
    steps = [(10, "3"), (None, "1")]
    change_ms = START_MS + HOUR_MS
    book = book_of(
        graduated_price("before", steps, per=1, effective_until=change_ms),
        graduated_price("after", steps, per=1, effective_from=change_ms),
    )
    rows = [usage(hour, quantities={INPUT: 10}) for hour in range(2)]
    assert [line.numerator_e12 for line in rate(rows, book, OCTOBER).lines] == [30 * E12] * 2


@pytest.mark.parametrize(
    ("quantity", "cost"), [(0, 0), (1, 5), (10, 50), (11, 53), (20, 80), (21, 81), (100, 160)]
)
def test_step_bounds_are_inclusive(quantity: int, cost: int) -> None:
    steps = ((10, 5), (20, 3), (None, 1))
    pricing = GraduatedPricing(
        kind="graduated",
        steps=tuple(PriceStep(up_to=up_to, unit_price_e12=price) for up_to, price in steps),
    )
    assert counted_numerator_e12(pricing, quantity) == cost


@pytest.mark.parametrize("hour", [-1, 31 * 24])
def test_usage_of_another_period_stops_the_rating(hour: int) -> None:
    with pytest.raises(ConservationError, match=r"usage of hour 2026-.* is not of 2026-10"):
        rate([usage(hour)], book_of(unit_price("p", "1")), OCTOBER)


def test_last_hour_of_the_period_belongs_to_it() -> None:
    row = usage(31 * 24 - 1, quantities={INPUT: 1})
    assert len(rate([row], book_of(unit_price("p", "1")), parse_period("2026-10")).lines) == 1


@pytest.mark.parametrize("changes", [{"requests": -1}, {"quantities": {INPUT: -1}}])
def test_negative_usage_stops_the_rating(changes: dict[str, Any]) -> None:
    with pytest.raises(ConservationError, match="negative usage of tenant acme in hour 2026-10-01"):
        rate([usage(**changes)], book_of(unit_price("p", "1")), OCTOBER)


def test_nothing_rates_to_nothing() -> None:
    rating = rate([], book_of(unit_price("p", "1")), OCTOBER)
    assert (rating.lines, rating.unpriced, rating.information, rating.totals) == ((), (), (), {})
