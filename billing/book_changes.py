"""What changes from one price book to another: prices by what they select and when; pure."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from schemas.prices import SELECTORS, Price, PriceBook

Selection = tuple[str, tuple[str | None, ...], tuple[int, ...] | None]
"""Meter, values of `SELECTORS`, hours of the week."""


@dataclass(frozen=True, slots=True)
class PriceChange:
    """Over a span, a selection has another price; None where a book has none.

    `until_ms` is None where the span has no end.
    """

    from_ms: int
    until_ms: int | None
    before: Price | None
    after: Price | None


@dataclass(frozen=True, slots=True)
class RuleChange:
    """Something else that the books say differently: an outcome, a billed meter, the currency."""

    what: str
    before: str
    after: str


def price_changes(before: PriceBook, after: PriceBook) -> list[PriceChange]:
    """Each selection and span that the two books price differently, in the order of both."""
    olds, news = _by_selection(before), _by_selection(after)
    return [
        change
        for selection in sorted(olds.keys() | news.keys(), key=repr)
        for change in _changes(olds.get(selection, []), news.get(selection, []))
    ]


def rule_changes(before: PriceBook, after: PriceBook) -> list[RuleChange]:
    """What the two books bill and in which currency, where they differ."""
    changes = [
        RuleChange(f"outcome {outcome}", before.outcomes[outcome], after.outcomes[outcome])
        for outcome in before.outcomes
        if before.outcomes[outcome] != after.outcomes[outcome]
    ]
    if before.currency != after.currency:
        changes.append(RuleChange("currency", before.currency, after.currency))
    for meter in sorted({*before.billed_meters} ^ {*after.billed_meters}):
        said = ("billed", "not billed")
        old, new = said if meter in before.billed_meters else said[::-1]
        changes.append(RuleChange(f"meter {meter}", old, new))
    return changes


def _by_selection(book: PriceBook) -> dict[Selection, list[Price]]:
    found: dict[Selection, list[Price]] = defaultdict(list)
    for price in book.prices:
        fixed = tuple(getattr(price.select, name) for name in SELECTORS)
        found[price.meter, fixed, price.select.hours_of_week].append(price)
    return found


def _changes(olds: list[Price], news: list[Price]) -> Iterator[PriceChange]:
    """Compare piece by piece of time; neighbours with the same two prices are one change."""
    cuts = {price.effective_from for price in (*olds, *news)}
    cuts |= {one.effective_until for one in (*olds, *news) if one.effective_until is not None}
    ordered = sorted(cuts)
    open_change: PriceChange | None = None
    for from_ms, until_ms in zip(ordered, [*ordered[1:], None], strict=True):
        before, after = _at(olds, from_ms), _at(news, from_ms)
        if _same(before, after):
            continue
        if (
            open_change is not None
            and open_change.until_ms == from_ms
            and (open_change.before, open_change.after) == (before, after)
        ):
            open_change = PriceChange(open_change.from_ms, until_ms, before, after)
            continue
        if open_change is not None:
            yield open_change
        open_change = PriceChange(from_ms, until_ms, before, after)
    if open_change is not None:
        yield open_change


def _at(prices: list[Price], moment_ms: int) -> Price | None:
    return next(
        (
            price
            for price in prices
            if price.effective_from <= moment_ms
            and (price.effective_until is None or moment_ms < price.effective_until)
        ),
        None,
    )


def _same(before: Price | None, after: Price | None) -> bool:
    """Whether it costs the same; hourly prices are the same only from the same first hour on."""
    if before is None or after is None:
        return before is after
    if before.pricing.kind == "hourly" and before.effective_from != after.effective_from:
        return False
    return (before.per, before.pricing) == (after.per, after.pricing)
