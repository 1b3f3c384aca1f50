"""Finalizing applies the customer's balance, and does not collect what is too small."""

import pytest

from infra.stripe_fake.balance import Settlement, settle


@pytest.mark.parametrize(
    ("total", "balance", "currency", "amount_due", "ending"),
    [
        (4229, 0, "usd", 4229, 0),
        (0, 0, "usd", 0, 0),
        (49, 0, "usd", 0, 49),
        (50, 0, "usd", 50, 0),
        (30, 49, "usd", 79, 0),
        (100, -30, "usd", 70, 0),
        (100, -300, "usd", 0, -200),
        (49, 0, "jpy", 0, 49),
        (1, 0, "xyz", 1, 0),
    ],
)
def test_what_is_due_and_what_stays(
    total: int, balance: int, currency: str, amount_due: int, ending: int
) -> None:
    settled = settle(total, balance, currency)
    assert settled == Settlement(amount_due, ending)
    assert settled.paid_at_once == (amount_due == 0)
    assert settled.amount_due + settled.ending_balance == total + balance
