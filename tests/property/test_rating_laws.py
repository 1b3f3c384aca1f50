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
from schemas.prices import Price, PriceBook, Selector
from schemas.usage import OUTCOMES
from tests.support.billing_examples import (
    HOUR_MS,
    OCTOBER,
    START_MS,
    book_of,
    graduated_price,
    hourly_price,
    package_price,
    unit_price,
    usage,
    volume_price,
)

METERS = ("input_uncached_tokens", "output_text_tokens", "gpu_ns")
TENANTS = ("acme", "globex")
MODELS = ("m1", "m2", "m3")

quantities = st.dictionaries(st.sampled_from(METERS), st.integers(0, 2**40), max_size=3)
rows = st.builds(
    usage,
    hour=st.integers(0, 743),
    tenant=st.sampled_from(TENANTS),
    project=st.sampled_from(("chat", "search")),
    model=st.sampled_from(MODELS),
    service_tier=st.sampled_from(("standard", "batch")),
    outcome=st.sampled_from(OUTCOMES),
    requests=st.integers(0, 1000),
    quantities=quantities,
)
price_texts = st.integers(0, 10**15).map(lambda e12: f"{e12 // 10**12}.{e12 % 10**12:012d}")
pers = st.sampled_from((1, 7, 1_000_000, 3_600_000_000_000))


@st.composite
def linear_books(draw: st.DrawFn) -> PriceBook:
    """Unit prices for some of the usage: by model, by project, with a change in mid-month."""
    prices: list[Price] = []
    change_ms = START_MS + draw(st.integers(1, 743)) * HOUR_MS
    for meter in METERS[:2]:
        for name, select in (("all", Selector()), ("m1", Selector(model="m1"))):
            text, per = draw(price_texts), draw(pers)
            prices.append(
                unit_price(
                    f"{meter}-{name}-old",
                    text,
                    meter=meter,
                    select=select,
                    per=per,
                    effective_until=change_ms,
                )
            )
            if draw(st.booleans()):
                prices.append(
                    unit_price(
                        f"{meter}-{name}-new",
                        draw(price_texts),
                        meter=meter,
                        select=select,
                        per=draw(pers),
                        effective_from=change_ms,
                    )
                )
    return book_of(*prices)


KINDS = ("graduated", "volume", "package", "hourly")


@st.composite
def special_prices(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS) -> Price:
    """A price of one of these kinds for tenant acme, in some hours of the week or in all."""
    kind = draw(st.sampled_from(kinds))
    hours = draw(st.none() | st.sets(st.integers(0, 167), min_size=1).map(sorted).map(tuple))
    select = Selector(tenant="acme", model=draw(st.sampled_from((None, "m2"))), hours_of_week=hours)
    if kind == "package":
        return package_price(kind, draw(price_texts), draw(st.integers(1, 2**41)), select=select)
    if kind == "hourly":
        count = draw(st.integers(1, 744))
        texts = draw(st.lists(price_texts, min_size=1, max_size=3))
        prices = [texts[hour % len(texts)] for hour in range(count)]
        return hourly_price(kind, prices, select=select, per=draw(pers))
    limits = sorted(draw(st.sets(st.integers(1, 2**42), min_size=1, max_size=4)))
    steps = [(limit, draw(price_texts)) for limit in limits] + [(None, draw(price_texts))]
    make = graduated_price if kind == "graduated" else volume_price
    return make(kind, steps, select=select, per=draw(pers))


@st.composite
def any_books(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS) -> PriceBook:
    """A linear book with a price of another kind on top, for one model or for all."""
    return book_of(*draw(linear_books()).prices, draw(special_prices(kinds)))


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
