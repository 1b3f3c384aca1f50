"""Exact money: prices as integers scaled by 10^12, amounts as rationals, one rounding place.

An amount before the invoice is `quantity * unit_price_e12 / (per * 10^12)` in major units of its
currency. Nothing here divides until `round_to_minor`, which is called once per invoice.
"""

import math
import re
from collections.abc import Sequence
from fractions import Fraction

from schemas.apportion import apportion
from schemas.errors import MoneyError

PRICE_SCALE = 10**12
"""A unit price is stored as this many parts of a major unit."""
PRICE_DECIMALS = 12
UNIT_PRICE_E12_MAX = 10**26
"""Keeps quantity times price inside 256 bits; 10^14 major units per unit of usage."""

_PLAIN_DECIMAL = re.compile(r"[0-9]{1,14}(\.[0-9]{1,12})?")
_ZERO_DECIMAL = frozenset(
    {"bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg"}
    | {"rwf", "vnd", "vuv", "xaf", "xof", "xpf"}
)
_THREE_DECIMAL = frozenset({"bhd", "jod", "kwd", "omr", "tnd"})


def parse_price(text: str) -> int:
    """Read a price such as `0.0375` as an integer scaled by 10^12.

    Raises:
        MoneyError: If the text is signed, has an exponent, or more than 12 decimals.
    """
    if not _PLAIN_DECIMAL.fullmatch(text):
        raise MoneyError(f"a price is a plain decimal with at most 12 decimals, not {text!r}")
    whole, _, decimals = text.partition(".")
    return int(whole) * PRICE_SCALE + int(decimals.ljust(PRICE_DECIMALS, "0"))


def format_price(unit_price_e12: int) -> str:
    """The shortest plain decimal of a scaled price; the inverse of `parse_price`."""
    whole, rest = divmod(unit_price_e12, PRICE_SCALE)
    decimals = f"{rest:012d}".rstrip("0")
    return f"{whole}.{decimals}" if decimals else str(whole)


def minor_exponent(currency: str) -> int:
    """Decimals of the minor unit that Stripe charges in: USD 2, JPY 0, KWD 3.

    Source: docs.stripe.com/currencies, zero- and three-decimal currencies.
    """
    code = currency.lower()
    return 0 if code in _ZERO_DECIMAL else 3 if code in _THREE_DECIMAL else 2


def exact_amount(numerator_e12: int, per: int) -> Fraction:
    """Major units of a currency: a sum of `quantity * unit_price_e12` over the price's `per`."""
    return Fraction(numerator_e12, per * PRICE_SCALE)


def round_to_minor(amount: Fraction, currency: str) -> int:
    """Round an exact amount to whole minor units, half away from zero, as people read invoices.

    The only rounding of money; called once per invoice. Symmetric, so a charge and its credit
    cancel.
    """
    scaled = abs(amount) * Fraction(10 ** minor_exponent(currency))
    whole, rest = divmod(scaled.numerator, scaled.denominator)
    if rest * 2 >= scaled.denominator:
        whole += 1
    return -whole if amount < 0 else whole


def allocate_minor(amounts: Sequence[Fraction], ties: Sequence[str], currency: str) -> list[int]:
    """Minor units per line: the rounded total of the exact amounts, by largest remainder.

    Args:
        amounts: Exact amount per line in major units, none negative.
        ties: One distinct key per line.
        currency: ISO 4217 code.

    Returns:
        One integer per line; they add up to `round_to_minor(sum(amounts))`.
    """
    exact_total = sum(amounts, Fraction(0))
    total_minor = round_to_minor(exact_total, currency)
    if exact_total == 0:
        return [0] * len(amounts)
    scale = exact_total.denominator
    for amount in amounts:
        scale = scale * amount.denominator // math.gcd(scale, amount.denominator)
    weights = [amount.numerator * (scale // amount.denominator) for amount in amounts]
    return apportion(total_minor, weights, ties)


def format_minor(amount_minor: int, currency: str) -> str:
    """`1234` in USD as `12.34`; in JPY as `1234`."""
    exponent = minor_exponent(currency)
    sign = "-" if amount_minor < 0 else ""
    digits = str(abs(amount_minor)).rjust(exponent + 1, "0")
    if exponent == 0:
        return sign + digits
    return f"{sign}{digits[:-exponent]}.{digits[-exponent:]}"
