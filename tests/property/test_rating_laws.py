"""Law 5: rating is free of order, additive for unit prices, monotone; lines make the total."""

from collections import defaultdict
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from billing.invoicing import Proof, make_invoice
from billing.price_models import counted_numerator_e12
from billing.rating import Rating, rate
from schemas.billing import HourlyUsage
from schemas.periods import HOUR
from schemas.price_kinds import (
    GraduatedPricing,
    HourlyPricing,
    PackagePricing,
    PriceStep,
    UnitPricing,
    VolumePricing,
)
from schemas.prices import PriceBook
from tests.support.billing_examples import OCTOBER
from tests.support.priced_books import METERS, TENANTS, any_books, linear_books, rows


def exact_total(rating: Rating, tenant: str) -> Fraction:
    return sum((line.amount() for line in rating.lines if line.tenant == tenant), Fraction(0))


@given(st.data(), st.lists(rows, max_size=30), any_books())
def test_order_of_usage_changes_nothing(
    data: st.DataObject, used: list[HourlyUsage], book: PriceBook
) -> None:
    assert rate(data.draw(st.permutations(used)), book, OCTOBER) == rate(used, book, OCTOBER)


@given(st.data(), st.lists(rows, max_size=10), any_books())
def test_order_of_prices_in_the_book_changes_no_line(
    data: st.DataObject, used: list[HourlyUsage], book: PriceBook
) -> None:
    shuffled = book.model_copy(update={"prices": tuple(data.draw(st.permutations(book.prices)))})
    assert rate(used, shuffled, OCTOBER) == rate(used, book, OCTOBER)


@given(st.lists(rows, max_size=20), st.lists(rows, max_size=20), linear_books())
def test_unit_prices_add_over_disjoint_usage(
    one: list[HourlyUsage], other: list[HourlyUsage], book: PriceBook
) -> None:
    def by_line(*ratings: Rating) -> dict[tuple[str, ...], tuple[int, int]]:
        sums: dict[tuple[str, ...], tuple[int, int]] = defaultdict(lambda: (0, 0))
        for rating in ratings:
            for line in rating.lines:
                key = (line.tenant, line.outcome_class, line.key())
                quantity, numerator_e12 = sums[key]
                sums[key] = (quantity + line.quantity, numerator_e12 + line.numerator_e12)
        return sums

    together = rate([*one, *other], book, OCTOBER)
    assert by_line(together) == by_line(rate(one, book, OCTOBER), rate(other, book, OCTOBER))


@given(st.lists(rows, max_size=20), rows, any_books(("graduated", "package", "hourly")))
def test_more_usage_never_costs_less_but_under_volume_prices(
    used: list[HourlyUsage], more: HourlyUsage, book: PriceBook
) -> None:
    before, after = rate(used, book, OCTOBER), rate([*used, more], book, OCTOBER)
    for tenant in TENANTS:
        assert exact_total(before, tenant) <= exact_total(after, tenant)


@given(st.lists(rows, max_size=20), any_books())
def test_nothing_used_is_lost(used: list[HourlyUsage], book: PriceBook) -> None:
    rating = rate(used, book, OCTOBER)
    for meter in METERS:
        kept = sum(line.quantity for line in rating.lines if line.meter == meter)
        kept += sum(one.quantity for one in rating.unpriced if one.meter == meter)
        kept += sum(one.quantity for one in rating.information if one.meter == meter)
        assert kept == sum(row.quantities[meter] for row in used)
    assert sum(total.requests for total in rating.totals.values()) == sum(
        row.requests for row in used
    )


@given(st.lists(rows, min_size=1, max_size=20), any_books())
def test_lines_sum_to_the_total_and_rounding_is_off_by_at_most_half_a_cent(
    used: list[HourlyUsage], book: PriceBook
) -> None:
    rating = rate(used, book, OCTOBER)
    for tenant in rating.totals:
        invoice = make_invoice(rating, book, OCTOBER, tenant=tenant, proof=Proof((), {}))
        assert sum(line.amount_minor for line in invoice.lines) == invoice.total_minor
        exact_minor = exact_total(rating, tenant) * 100
        assert abs(invoice.total_minor - exact_minor) <= Fraction(1, 2)
        for line in invoice.lines:
            # Its share of the total's rounding, and less than one unit of its own.
            assert abs(line.amount_minor - line.rated.amount() * 100) < Fraction(3, 2)


@given(
    st.sets(st.integers(1, 200), max_size=5),
    st.lists(st.integers(0, 10**6), min_size=6, max_size=6),
    st.integers(0, 250),
)
def test_graduated_equals_counting_unit_by_unit(
    limits: set[int], unit_prices: list[int], quantity: int
) -> None:
    bounds: list[int | None] = [*sorted(limits), None]
    steps = [
        PriceStep(up_to=up_to, unit_price_e12=price)
        for up_to, price in zip(bounds, unit_prices, strict=False)
    ]

    def cost_of_unit(number: int) -> int:
        return next(
            step.unit_price_e12 for step in steps if step.up_to is None or number <= step.up_to
        )

    pricing = GraduatedPricing(kind="graduated", steps=tuple(steps))
    one_by_one = sum(cost_of_unit(number) for number in range(1, quantity + 1))
    assert counted_numerator_e12(pricing, quantity) == one_by_one


@given(st.lists(rows, max_size=20), any_books(("graduated", "volume", "package")))
def test_lines_of_a_price_that_counts_make_up_its_counter(
    used: list[HourlyUsage], book: PriceBook
) -> None:
    price = book.prices[-1]
    assert not isinstance(price.pricing, UnitPricing | HourlyPricing)
    lines = [line for line in rate(used, book, OCTOBER).lines if line.price_id == price.id]
    together_e12 = counted_numerator_e12(price.pricing, sum(line.quantity for line in lines))
    assert sum(line.numerator_e12 for line in lines) == together_e12


@given(st.lists(rows, max_size=20), any_books(("hourly",)))
def test_hourly_line_is_the_sum_of_its_hours(used: list[HourlyUsage], book: PriceBook) -> None:
    price = book.prices[-1]
    assert isinstance(price.pricing, HourlyPricing)
    hour_prices = price.pricing.unit_prices_e12
    hour_by_hour = 0
    for row in used:
        since = (row.hour - OCTOBER.start) // HOUR
        of_week = row.hour.weekday() * 24 + row.hour.hour
        hours = price.select.hours_of_week
        if (
            row.tenant == "acme"
            and book.outcomes[row.outcome] == "billed"
            and since < len(hour_prices)
            and price.select.model in (None, row.model)
            and (hours is None or of_week in hours)
        ):
            hour_by_hour += row.quantities["input_uncached_tokens"] * hour_prices[since]
    lines = [line for line in rate(used, book, OCTOBER).lines if line.price_id == price.id]
    assert sum(line.numerator_e12 for line in lines) == hour_by_hour


@given(size=st.integers(1, 50), quantity=st.integers(0, 500), price_e12=st.integers(0, 10**14))
def test_packages_hold_all_units_and_the_last_is_needed(
    size: int, quantity: int, price_e12: int
) -> None:
    pricing = PackagePricing(kind="package", size=size, package_price_e12=price_e12)
    packed = len(range(0, quantity, size))
    assert counted_numerator_e12(pricing, quantity) == packed * price_e12


@given(
    limits=st.sets(st.integers(1, 300), max_size=5),
    unit_prices=st.lists(st.integers(0, 10**13), min_size=6, max_size=6),
    quantity=st.integers(0, 500),
)
def test_volume_costs_what_a_graduated_price_of_its_last_step_alone_does(
    limits: set[int], unit_prices: list[int], quantity: int
) -> None:
    bounds = [*sorted(limits), None]
    steps = tuple(
        PriceStep(up_to=up_to, unit_price_e12=price)
        for up_to, price in zip(bounds, unit_prices, strict=False)
    )
    reached = next(step for step in steps if step.up_to is None or quantity <= step.up_to)
    alone = GraduatedPricing(
        kind="graduated", steps=(PriceStep(unit_price_e12=reached.unit_price_e12),)
    )
    volume = VolumePricing(kind="volume", steps=steps)
    assert counted_numerator_e12(volume, quantity) == counted_numerator_e12(alone, quantity)
