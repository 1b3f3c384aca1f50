"""How figures read: exact, grouped, with their unit."""

from fractions import Fraction

import pytest

from billing.wording import exact_text, money_text, per_text, price_text, quantity_text
from tests.support.billing_examples import package_price, unit_price


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (Fraction(0), "0.00"),
        (Fraction(1, 2), "0.50"),
        (Fraction(1234567, 8), "154,320.875"),
        (Fraction(1, 10**18), "0.000000000000000001"),
        (Fraction(1000), "1,000.00"),
        (Fraction(-5, 4), "-1.25"),
        (Fraction(10, 3), "10/3"),
        (Fraction(1, 1024), "0.0009765625"),
    ],
)
def test_exact_amount_is_a_decimal_where_there_is_one(amount: Fraction, text: str) -> None:
    assert exact_text(amount) == text


@pytest.mark.parametrize(
    ("amount_minor", "currency", "text"),
    [
        (0, "USD", "0.00"),
        (123_456_789, "USD", "1,234,567.89"),
        (-5, "USD", "-0.05"),
        (1_234, "JPY", "1,234"),
        (1_234_567, "KWD", "1,234.567"),
    ],
)
def test_money_is_grouped_by_thousands(amount_minor: int, currency: str, text: str) -> None:
    assert money_text(amount_minor, currency) == text


def test_gpu_time_reads_in_seconds_to_the_nanosecond() -> None:
    assert quantity_text(3_600_000_000_000, "gpu_ns") == "3,600"
    assert quantity_text(1_000_000_001, "reserved_gpu_ns") == "1.000000001"
    assert quantity_text(1_000_000_001, "output_text_tokens") == "1,000,000,001"


def test_price_says_what_it_is_the_price_of() -> None:
    hour_ns = 3_600_000_000_000
    assert per_text(unit_price("p", "1")) == "1,000,000"
    assert per_text(unit_price("p", "1", meter="gpu_ns", per=hour_ns)) == "GPU-hour"
    assert per_text(unit_price("p", "1", meter="gpu_ns", per=10**9)) == "1,000,000,000 GPU-ns"
    assert per_text(package_price("p", "1", 1_000)) == "started 1,000"
    assert per_text(package_price("p", "1", 2 * hour_ns, meter="gpu_ns")) == "started 2 GPU-hours"


@pytest.mark.parametrize(
    ("price", "text"),
    [("0.9", "0.90"), ("2", "2.00"), ("0.1125", "0.1125"), ("1234.5", "1,234.50")],
)
def test_price_has_at_least_two_decimals(price: str, text: str) -> None:
    assert price_text(unit_price("p", price)) == text
