"""Finds the one price of a meter that applies to a row of usage; pure, indexed once per book."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from schemas.prices import Price, PriceBook

Dimensions = tuple[str, str, str, str, str, str, str]
"""Values of `SELECTORS`, in that order."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Which prices may apply when: `prices[i]` from `starts_ms[i]` to the next start.

    Of each piece the winner stands first; those behind it count only in hours of the week that
    it leaves out.
    """

    starts_ms: tuple[int, ...]
    prices: tuple[tuple[Price, ...], ...]

    def at(self, hour_ms: int) -> Price | None:
        """The price in force in the hour that starts at `hour_ms`; None where there is none."""
        position = bisect_right(self.starts_ms, hour_ms) - 1
        if position < 0:
            return None
        return next((price for price in self.prices[position] if price.applies_at(hour_ms)), None)


class PriceIndex:
    """The prices of one book by what they select, so that a lookup does not scan the book.

    Of several prices that match, the one that fixes the most telling fields wins
    (`Selector.rank`); two of equal rank that match the same usage select exactly the same, and
    of these the later `effective_from` wins, then the smaller id. An imported book never needs
    the last two rules: overlaps are refused at import.
    """

    def __init__(self, book: PriceBook) -> None:
        self._prices: dict[tuple[str, tuple[bool, ...], tuple[str, ...]], list[Price]] = (
            defaultdict(list)
        )
        self._narrowed: dict[str, list[tuple[bool, ...]]] = defaultdict(list)
        self._timelines: dict[Dimensions, dict[str, Timeline]] = defaultdict(dict)
        for price in book.prices:
            narrowed = price.select.narrowed()
            self._prices[price.meter, narrowed, price.select.fixed()].append(price)
            if narrowed not in self._narrowed[price.meter]:
                self._narrowed[price.meter].append(narrowed)

    def timelines(self, dimensions: Dimensions, meters: Iterable[str]) -> dict[str, Timeline]:
        """One timeline per meter for usage with these dimensions."""
        known = self._timelines[dimensions]
        for meter in meters:
            if meter not in known:
                known[meter] = _timeline(self._matching(dimensions, meter))
        return known

    def _matching(self, dimensions: Dimensions, meter: str) -> list[Price]:
        found: list[Price] = []
        for narrowed in self._narrowed.get(meter, ()):
            fixed = tuple(
                value for value, is_fixed in zip(dimensions, narrowed, strict=True) if is_fixed
            )
            found.extend(self._prices.get((meter, narrowed, fixed), ()))
        return found


def winners_first(matching: Iterable[Price]) -> list[Price]:
    """Prices that match the same usage, in the order in which they win."""
    # Sorted by the least wanted rule first: each sort is stable, so the last one weighs most.
    ordered = sorted(matching, key=lambda price: price.id)
    ordered.sort(key=lambda price: price.effective_from, reverse=True)
    ordered.sort(key=lambda price: price.select.rank(), reverse=True)
    return ordered


def _timeline(matching: list[Price]) -> Timeline:
    """Cut time at every start and end of a price and order the prices of each piece."""
    ordered = winners_first(matching)
    cuts = {price.effective_from for price in matching}
    cuts |= {price.effective_until for price in matching if price.effective_until is not None}
    starts_ms = tuple(sorted(cuts))
    return Timeline(starts_ms, tuple(_in_force(ordered, start_ms) for start_ms in starts_ms))


def _in_force(ordered: Iterable[Price], start_ms: int) -> tuple[Price, ...]:
    """Those in force at a moment, up to the first that holds in every hour of the week."""
    found: list[Price] = []
    for price in ordered:
        if _covers(price, start_ms):
            found.append(price)
            if price.select.hours_of_week is None:
                break
    return tuple(found)


def _covers(price: Price, hour_ms: int) -> bool:
    return price.effective_from <= hour_ms and (
        price.effective_until is None or hour_ms < price.effective_until
    )
