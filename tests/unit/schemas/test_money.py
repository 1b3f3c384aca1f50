"""Money: exact in, rounded once, never a float, never an exponent."""

from fractions import Fraction

import pytest

from schemas.errors import ConservationError, MoneyError
from schemas.money import (
    allocate_minor,
    exact_amount,
    format_minor,
    format_price,
    minor_exponent,
    parse_price,
    round_to_minor,
)


@pytest.mark.parametrize(
    ("text", "scaled"),
    [
        ("0", 0),
        ("0.06", 60_000_000_000),
        ("2.00", 2 * 10**12),
        ("0.000000000001", 1),
        ("99999999999999.999999999999", 10**26 - 1),
        ("007", 7 * 10**12),
    ],
)
def test_price_is_read_exactly(text: str, scaled: int) -> None:
    assert parse_price(text) == scaled


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "+1",
        "1e3",
        ".5",
        "5.",
        "1,5",
        " 1",
        "1\n",
        "0.0000000000001",
        "1" * 15,
        "NaN",
        "٣",
    ],
)
def test_what_is_no_plain_decimal_is_refused(text: str) -> None:
    with pytest.raises(MoneyError, match="a price is a plain decimal"):
        parse_price(text)


@pytest.mark.parametrize(
    ("scaled", "text"), [(0, "0"), (1, "0.000000000001"), (2 * 10**12, "2"), (15 * 10**11, "1.5")]
)
def test_price_is_written_as_the_shortest_decimal(scaled: int, text: str) -> None:
    assert format_price(scaled) == text


@pytest.mark.parametrize(
    ("currency", "decimals"), [("USD", 2), ("usd", 2), ("JPY", 0), ("KWD", 3), ("EUR", 2)]
)
def test_minor_unit_follows_the_currency(currency: str, decimals: int) -> None:
    assert minor_exponent(currency) == decimals


@pytest.mark.parametrize(
    ("amount", "currency", "minor"),
    [
        (Fraction(5, 1000), "USD", 1),
        (Fraction(4999, 10**6), "USD", 0),
        (Fraction(15, 1000), "USD", 2),
        (Fraction(25, 1000), "USD", 3),
        (Fraction(-5, 1000), "USD", -1),
        (Fraction(-4999, 10**6), "USD", 0),
        (Fraction(1, 2), "JPY", 1),
        (Fraction(1, 2000), "KWD", 1),
        (Fraction(0), "USD", 0),
    ],
)
def test_half_a_unit_is_rounded_away_from_zero(amount: Fraction, currency: str, minor: int) -> None:
    assert round_to_minor(amount, currency) == minor


def test_exact_amount_is_the_numerator_over_per_and_scale() -> None:
    assert exact_amount(60_000_000_000 * 7, 1_000_000) == Fraction(42, 10**8)


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [
        (1234, "USD", "12.34"),
        (5, "USD", "0.05"),
        (0, "USD", "0.00"),
        (-5, "USD", "-0.05"),
        (-1234, "JPY", "-1234"),
        (0, "JPY", "0"),
        (1, "KWD", "0.001"),
    ],
)
def test_minor_units_read_as_people_write_money(minor: int, currency: str, text: str) -> None:
    assert format_minor(minor, currency) == text


def test_largest_remainders_get_the_last_units() -> None:
    amounts = [Fraction(14, 1000), Fraction(16, 1000), Fraction(10, 1000)]
    assert allocate_minor(amounts, ["a", "b", "c"], "USD") == [1, 2, 1]


def test_equal_remainders_go_by_the_smaller_key() -> None:
    amounts = [Fraction(1, 300)] * 3
    assert allocate_minor(amounts, ["c", "a", "b"], "USD") == [0, 1, 0]


def test_nothing_is_allocated_from_nothing() -> None:
    assert allocate_minor([], [], "USD") == []
    assert allocate_minor([Fraction(0), Fraction(0)], ["a", "b"], "USD") == [0, 0]


def test_total_that_rounds_to_zero_gives_every_line_zero() -> None:
    assert allocate_minor([Fraction(1, 1000)] * 4, list("abcd"), "USD") == [0, 0, 0, 0]


def test_negative_amount_cannot_be_allocated() -> None:
    with pytest.raises(ConservationError, match="cannot split"):
        allocate_minor([Fraction(2), Fraction(-1)], ["a", "b"], "USD")
