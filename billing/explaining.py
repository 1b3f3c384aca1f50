"""Why a price applies to usage: every candidate, in the order in which they are asked; pure."""

from dataclasses import dataclass

from schemas.periods import hour_text
from schemas.price_selection import Dimensions, winners_first
from schemas.prices import SELECTORS, Price, PriceBook


@dataclass(frozen=True, slots=True)
class Candidate:
    """A price that matches by what it selects, and what became of it."""

    price: Price
    wins: bool
    why: str


def explain(
    book: PriceBook, dimensions: Dimensions, meter: str, hour_ms: int
) -> tuple[Candidate, ...]:
    """The prices of a meter that match usage, the winner among them.

    Args:
        book: The book.
        dimensions: Values of `SELECTORS`, in that order.
        meter: What was used.
        hour_ms: The start of the hour in which it was used.

    Returns:
        In the order of the rule: of those in force, the first wins. Empty if nothing matches.
    """
    matching = [
        price
        for price in book.prices
        if price.meter == meter
        and all(
            wanted is None or wanted == value
            for wanted, value in zip(
                (getattr(price.select, name) for name in SELECTORS), dimensions, strict=True
            )
        )
    ]
    winner: Price | None = None
    found: list[Candidate] = []
    for price in winners_first(matching):
        if not price.applies_at(hour_ms):
            found.append(Candidate(price, wins=False, why=_why_not_in_force(price, hour_ms)))
        elif winner is None:
            winner = price
            found.append(Candidate(price, wins=True, why=f"it fixes {_fixes(price)}"))
        else:
            found.append(Candidate(price, wins=False, why=_why_it_loses(price, winner)))
    return tuple(found)


def _why_not_in_force(price: Price, hour_ms: int) -> str:
    if hour_ms < price.effective_from:
        return f"begins at {hour_text(price.effective_from)}"
    if price.effective_until is not None and hour_ms >= price.effective_until:
        return f"ended at {hour_text(price.effective_until)}"
    return "not in this hour of the week"


def _fixes(price: Price) -> str:
    names = [
        name
        for name, fixed in zip((*SELECTORS, "hours_of_week"), price.select.rank(), strict=True)
        if fixed
    ]
    return ", ".join(names) or "nothing, and no narrower price is in force"


def _why_it_loses(price: Price, winner: Price) -> str:
    for name, winners, its in zip(
        (*SELECTORS, "hours_of_week"), winner.select.rank(), price.select.rank(), strict=True
    ):
        if winners != its:
            return f"{winner.id} fixes {name}, this one does not"
    if price.effective_from != winner.effective_from:
        return f"{winner.id} begins later"
    return f"{winner.id} has the smaller id"
