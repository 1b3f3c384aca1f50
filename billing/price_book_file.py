"""Reads the price book that finance edits (YAML) into `schemas.prices.PriceBook`.

The format, by example, is `billing/examples/price_book_2026.yaml`; every kind of price is worked
through in `docs/price-models.md`.
"""

from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path

from pydantic import ValidationError

from billing.price_kind_file import Tier, price_e12
from billing.price_list_file import Defaults, PlacedPrice, product_prices
from billing.yaml_source import Node, Source
from schemas.errors import PriceBookError
from schemas.periods import hour_text
from schemas.prices import SELECTORS, Billing, Price, PriceBook
from schemas.usage import METERS, OUTCOMES, TOKEN_METERS

EXAMPLE_PRICE_BOOK = Path(__file__).parent / "examples" / "price_book_2026.yaml"


@dataclass(frozen=True, slots=True)
class BookFile:
    """A book as read, and where its name stands (`file:line`), for errors about the name."""

    book: PriceBook
    name_at: str


def read_price_book(path: Path) -> BookFile:
    """Read and check a price book.

    Raises:
        PriceBookError: If anything in it is wrong; the message starts with `file:line`.
    """
    source = Source(path)
    root = source.root()
    parts = source.known(
        root,
        "the book",
        required=("name", "currency", "outcomes", "products"),
        optional=("per", "tiers", "billed_meters"),
    )
    defaults = Defaults(
        per=source.whole_number(parts["per"], "per") if "per" in parts else 1,
        tiers=_tiers(source, parts["tiers"]) if "tiers" in parts else (),
    )
    placed: list[PlacedPrice] = []
    for name, (_, node) in source.mapping(parts["products"], "products").items():
        placed.extend(product_prices(source, name, node, defaults))
    if not placed:
        raise source.error(parts["products"], "products: the book prices nothing")
    _refuse_overlaps_and_gaps(source, placed)
    try:
        book = PriceBook(
            name=source.text(parts["name"], "name"),
            currency=source.text(parts["currency"], "currency"),
            billed_meters=_billed_meters(source, parts.get("billed_meters")),
            outcomes=dict(_outcomes(source, parts["outcomes"])),
            # In the order of ids, so that moving a product in the file changes no hash.
            prices=tuple(sorted((one.price for one in placed), key=lambda price: price.id)),
        )
    except ValidationError as error:
        where = error.errors()[0]["loc"]
        node = parts.get(str(where[0]), root) if where else root
        raise source.refused(node, error) from error
    return BookFile(book, source.at(parts["name"]))


def _tiers(source: Source, node: Node) -> tuple[Tier, ...]:
    return tuple(
        Tier(name, price_e12(source, value, f"tier {name}"))
        for name, (_, value) in source.mapping(node, "tiers").items()
    )


def _billed_meters(source: Source, node: Node | None) -> tuple[str, ...]:
    if node is None:
        return TOKEN_METERS
    named: list[str] = []
    for item in source.items(node, "billed_meters"):
        meter = source.text(item, "a billed meter")
        if meter not in METERS:
            raise source.error(item, f"unknown meter {meter!r}; meters are {', '.join(METERS)}")
        if meter in named:
            raise source.error(item, f"billed_meters has {meter!r} twice")
        named.append(meter)
    return tuple(meter for meter in METERS if meter in named)


def _outcomes(source: Source, node: Node) -> list[tuple[str, Billing]]:
    found = source.known(node, "outcomes", required=OUTCOMES)
    classes: list[tuple[str, Billing]] = []
    for outcome in OUTCOMES:
        word = source.text(found[outcome], f"outcome {outcome}")
        if word == "billed":
            classes.append((outcome, "billed"))
        elif word == "unbilled":
            classes.append((outcome, "unbilled"))
        else:
            raise source.error(
                found[outcome], f"outcome {outcome} must be billed or unbilled, not {word!r}"
            )
    return classes


def _refuse_overlaps_and_gaps(source: Source, placed: list[PlacedPrice]) -> None:
    """Two prices of one selection and meter follow each other without competing or a hole."""
    by_time = sorted(placed, key=lambda one: (_selection(one.price), one.price.effective_from))
    for before, after in pairwise(by_time):
        first, second = before.price, after.price
        if _selection(first) != _selection(second):
            continue
        until_ms, from_ms = first.effective_until, second.effective_from
        if until_ms is None or until_ms > from_ms:
            raise _overlap(source, before, after)
        if until_ms < from_ms:
            raise source.error(
                after.node,
                f"gap: {_named(second)} has no price from {hour_text(until_ms)}, where"
                f" {source.at(before.node)} ends, to {hour_text(from_ms)}",
            )
    _refuse_crossing_hours(source, placed)


def _refuse_crossing_hours(source: Source, placed: list[PlacedPrice]) -> None:
    """Two prices that differ in their hours of the week alone have no hour in common."""
    groups: dict[tuple[str, ...], list[PlacedPrice]] = defaultdict(list)
    for one in placed:
        if one.price.select.hours_of_week is not None:
            groups[_selection(one.price)[:-1]].append(one)
    for group in groups.values():
        for before, after in combinations(group, 2):
            first, second = before.price.select.hours_of_week, after.price.select.hours_of_week
            if first == second or not set(first or ()) & set(second or ()):
                continue
            if _meet(before.price, after.price):
                raise _overlap(source, before, after)


def _meet(first: Price, second: Price) -> bool:
    """Whether the spans of two prices have a moment in common."""
    firsts_end, seconds_end = first.effective_until, second.effective_until
    return (firsts_end is None or second.effective_from < firsts_end) and (
        seconds_end is None or first.effective_from < seconds_end
    )


def _overlap(source: Source, before: PlacedPrice, after: PlacedPrice) -> PriceBookError:
    until_ms, price = before.price.effective_until, after.price
    until = "without end" if until_ms is None else f"until {hour_text(until_ms)}"
    return source.error(
        after.node,
        f"overlap: {_named(price)} is priced from {hour_text(price.effective_from)}, but"
        f" {source.at(before.node)} prices it {until}",
    )


def _selection(price: Price) -> tuple[str, ...]:
    fixed = (getattr(price.select, field) or "" for field in SELECTORS)
    hours = price.select.hours_of_week or ()
    return price.meter, *fixed, " ".join(f"{hour:03}" for hour in hours)


def _named(price: Price) -> str:
    chosen = [
        f"{field}={value}"
        for field in SELECTORS
        if (value := getattr(price.select, field)) is not None
    ]
    if price.select.hours_of_week is not None:
        chosen.append(f"{len(price.select.hours_of_week)} hours of the week")
    return f"{price.meter} of {' '.join(chosen) or 'everything'}"
