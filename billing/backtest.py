"""Rates real history with another price book: what each tenant would have paid."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby

from billing.rating import Rating, rate
from schemas.billing import HourlyUsage
from schemas.periods import Period
from schemas.prices import PriceBook


@dataclass(frozen=True, slots=True)
class Backtested:
    """One tenant's exact amounts under both books, in the books' currencies.

    `unpriced_before` and `unpriced_after` count the kinds of usage that a book has no price for:
    where they are not 0, the amount is not what an invoice would say.
    """

    tenant: str
    before: Fraction
    after: Fraction
    unpriced_before: int
    unpriced_after: int


def backtest(
    usage: Iterable[HourlyUsage], before: PriceBook, after: PriceBook, period: Period
) -> Iterator[Backtested]:
    """Rate each tenant with both books.

    Args:
        usage: Hourly rows of the period, those of one tenant next to each other; one tenant's are
            in memory at a time.
        before: The book in use.
        after: The book that is tried.
        period: Where counters begin and end.
    """
    for tenant, rows in groupby(usage, key=lambda row: row.tenant):
        used = list(rows)
        old, new = rate(used, before, period), rate(used, after, period)
        yield Backtested(tenant, _exact(old), _exact(new), len(old.unpriced), len(new.unpriced))


def _exact(rating: Rating) -> Fraction:
    return sum((line.amount() for line in rating.lines), Fraction(0))
