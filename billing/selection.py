"""Finds the one price of a meter that applies to a row of usage; pure, indexed once per book."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from schemas.prices import SELECTORS, Price, PriceBook

Dimensions = tuple[str, str, str, str, str, str, str]
"""Values of `SELECTORS`, in that order."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Which price is in force when: `prices[i]` from `starts_ms[i]` to the next start."""

    starts_ms: tuple[int, ...]
    prices: tuple[Price | None, ...]

    def at(self, hour_ms: int) -> Price | None:
        """The price in force in the hour that starts at `hour_ms`; None where there is none."""
        position = bisect_right(self.starts_ms, hour_ms) - 1
        return self.prices[position] if position >= 0 else None


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
        self._ranks: dict[str, list[tuple[bool, ...]]] = defaultdict(list)
        self._timelines: dict[Dimensions, dict[str, Timeline]] = defaultdict(dict)
        for price in book.prices:
            rank = price.select.rank()
            fixed = tuple(
                value for field in SELECTORS if (value := getattr(price.select, field)) is not None
            )
            self._prices[price.meter, rank, fixed].append(price)
            if rank not in self._ranks[price.meter]:
                self._ranks[price.meter].append(rank)

    def timelines(self, dimensions: Dimensions, meters: Iterable[str]) -> dict[str, Timeline]:
        """One timeline per meter for usage with these dimensions."""
        known = self._timelines[dimensions]
        for meter in meters:
            if meter not in known:
                known[meter] = _timeline(self._matching(dimensions, meter))
        return known

    def _matching(self, dimensions: Dimensions, meter: str) -> list[Price]:
        found: list[Price] = []
        for rank in self._ranks.get(meter, ()):
            fixed = tuple(
                value for value, is_fixed in zip(dimensions, rank, strict=True) if is_fixed
            )
            found.extend(self._prices.get((meter, rank, fixed), ()))
        return found


def _timeline(matching: list[Price]) -> Timeline:
    """Cut time at every start and end of a price and pick the winner of each piece."""
    # Sorted by the least wanted rule first: each sort is stable, so the last one weighs most.
    winners_first = sorted(matching, key=lambda price: price.id)
    winners_first.sort(key=lambda price: price.effective_from, reverse=True)
    winners_first.sort(key=lambda price: price.select.rank(), reverse=True)
    cuts = {price.effective_from for price in matching}
    cuts |= {price.effective_until for price in matching if price.effective_until is not None}
    starts_ms = tuple(sorted(cuts))
    in_force = tuple(
        next((price for price in winners_first if _covers(price, start_ms)), None)
        for start_ms in starts_ms
    )
    return Timeline(starts_ms, in_force)


def _covers(price: Price, hour_ms: int) -> bool:
    return price.effective_from <= hour_ms and (
        price.effective_until is None or hour_ms < price.effective_until
    )
