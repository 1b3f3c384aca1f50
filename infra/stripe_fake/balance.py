"""What finalizing owes: the customer's balance, and amounts too small to charge.

Source: docs.stripe.com/api/invoices and docs.stripe.com/currencies, minimum charge amounts. The
customer's balance is applied before the amount due is known (a credit is negative). An amount due
of zero makes the invoice paid; so does one below the currency's minimum, which then moves to the
customer's balance and is collected with a later invoice. `total` is never touched by this.
"""

from dataclasses import dataclass

MINIMUM_CHARGE = {
    "aud": 50,
    "brl": 50,
    "cad": 50,
    "chf": 50,
    "czk": 1500,
    "dkk": 250,
    "eur": 50,
    "gbp": 30,
    "hkd": 400,
    "inr": 50,
    "jpy": 50,
    "mxn": 1000,
    "nok": 300,
    "nzd": 50,
    "pln": 200,
    "sek": 300,
    "sgd": 50,
    "usd": 50,
}
"""Minor units; a currency that is not here has no minimum here."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What an invoice asks for, and what stays on the customer's balance; minor units."""

    amount_due: int
    ending_balance: int

    @property
    def paid_at_once(self) -> bool:
        """Nothing is left to collect on this invoice."""
        return self.amount_due == 0


def settle(total: int, starting_balance: int, currency: str) -> Settlement:
    """Apply the balance to a total and see what can be asked for."""
    owed = total + starting_balance
    if owed < MINIMUM_CHARGE.get(currency, 1):
        return Settlement(amount_due=0, ending_balance=owed)
    return Settlement(amount_due=owed, ending_balance=0)
