"""Splitting conserves the whole, rounding is near and symmetric, prices read back as written."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction

from hypothesis import assume, given
from hypothesis import strategies as st

from schemas.apportion import apportion
from schemas.money import (
    UNIT_PRICE_E12_MAX,
    allocate_minor,
    format_price,
    parse_price,
    round_to_minor,
)
from schemas.periods import hour_of, period_of

currencies = st.sampled_from(("USD", "JPY", "KWD"))
amounts = st.builds(Fraction, st.integers(0, 10**24), st.sampled_from((1, 7, 10**6, 36 * 10**23)))
weights = st.lists(st.integers(0, 2**70), min_size=1, max_size=20)
EXPONENTS = {"USD": 2, "JPY": 0, "KWD": 3}


def keys(count: int) -> list[str]:
    return [f"{index:04}" for index in range(count)]


@given(st.integers(0, UNIT_PRICE_E12_MAX - 1))
def test_price_reads_back_as_written(scaled: int) -> None:
    assert parse_price(format_price(scaled)) == scaled


@given(st.integers(0, 2**80), weights)
def test_parts_make_the_whole_and_each_is_its_share_but_for_one(
    total: int, shares: list[int]
) -> None:
    assume(sum(shares) > 0)
    parts = apportion(total, shares, keys(len(shares)))
    assert sum(parts) == total
    for part, share in zip(parts, shares, strict=True):
        exact = Fraction(total * share, sum(shares))
        assert abs(part - exact) < 1
        assert part == exact or share > 0


@given(st.data(), st.integers(0, 2**80), weights)
def test_split_does_not_depend_on_the_order_of_parts(
    data: st.DataObject, total: int, shares: list[int]
) -> None:
    assume(sum(shares) > 0)
    named = list(zip(keys(len(shares)), shares, strict=True))
    shuffled = data.draw(st.permutations(named))

    def split(parts: list[tuple[str, int]]) -> dict[str, int]:
        names = [name for name, _ in parts]
        return dict(zip(names, apportion(total, [part for _, part in parts], names), strict=True))

    assert split(named) == split(shuffled)


@given(amounts, currencies)
def test_rounding_is_off_by_at_most_half_a_unit_and_symmetric(
    amount: Fraction, currency: str
) -> None:
    minor = round_to_minor(amount, currency)
    assert abs(minor - amount * 10 ** EXPONENTS[currency]) <= Fraction(1, 2)
    assert round_to_minor(-amount, currency) == -minor


@given(st.lists(amounts, max_size=20), currencies)
def test_allocated_lines_add_up_to_the_rounded_sum(lines: list[Fraction], currency: str) -> None:
    parts = allocate_minor(lines, keys(len(lines)), currency)
    assert sum(parts) == round_to_minor(sum(lines, Fraction(0)), currency)
    assert all(part >= 0 for part in parts)


@given(st.lists(amounts, min_size=1, max_size=12), currencies, st.integers(1, 12))
def test_line_without_amount_gets_nothing(lines: list[Fraction], currency: str, zeros: int) -> None:
    parts = allocate_minor([*lines, *[Fraction(0)] * zeros], keys(len(lines) + zeros), currency)
    assert parts[len(lines) :] == [0] * zeros


@given(st.integers(0, 32_000_000_000))
def test_every_instant_is_in_exactly_one_period_and_hour(unix_s: int) -> None:
    instant = datetime.fromtimestamp(unix_s, UTC)
    period = period_of(instant)
    assert instant in period
    assert instant not in period_of(period.end)
    assert hour_of(instant) <= instant < hour_of(instant) + timedelta(hours=1)
    assert hour_of(instant) in period
