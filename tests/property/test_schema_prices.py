"""Prices: specificity is a total order, a book's hash is stable and notices every change."""

import json
from itertools import product
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.prices import SELECTORS, PriceBook, Selector
from tests.support.examples import load

NARROWED = st.frozensets(st.sampled_from(SELECTORS))


def selector(narrowed: frozenset[str]) -> Selector:
    return Selector.model_validate(dict.fromkeys(narrowed, "some"))


def read(book: dict[str, Any]) -> PriceBook:
    return PriceBook.model_validate_json(json.dumps(book))


def leaves(content: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The path of every number and text in a JSON value."""
    if isinstance(content, dict):
        return [leaf for key in content for leaf in leaves(content[key], (*path, key))]
    if isinstance(content, list):
        return [leaf for at, item in enumerate(content) for leaf in leaves(item, (*path, at))]
    return [path] if isinstance(content, str | int) else []


def test_selectors_are_exactly_the_fields_of_a_selector() -> None:
    assert tuple(Selector.model_fields) == (*SELECTORS, "hours_of_week")


def test_no_two_ways_to_narrow_a_price_have_the_same_rank() -> None:
    ways = [
        selector(frozenset(name for name, on in zip(SELECTORS, chosen, strict=True) if on))
        for chosen in product((False, True), repeat=len(SELECTORS))
    ]
    assert len({way.rank() for way in ways}) == 2 ** len(SELECTORS)


@given(first=NARROWED, second=NARROWED)
def test_rank_is_a_total_order_and_antisymmetric(
    first: frozenset[str], second: frozenset[str]
) -> None:
    left, right = selector(first).rank(), selector(second).rank()
    assert (left < right) + (left > right) + (left == right) == 1
    assert (left == right) == (first == second)


@given(narrowed=NARROWED, more=st.sampled_from(SELECTORS))
def test_narrowing_a_price_further_raises_its_rank(narrowed: frozenset[str], more: str) -> None:
    if more not in narrowed:
        assert selector(narrowed | {more}).rank() > selector(narrowed).rank()


@given(order=st.permutations(list(load("price_book--unit_and_graduated")["outcomes"])))
def test_hash_of_a_book_ignores_the_order_of_keys(order: list[str]) -> None:
    book = load("price_book--unit_and_graduated")
    turned = dict(reversed(book.items())) | {
        "outcomes": {key: book["outcomes"][key] for key in order}
    }
    assert read(turned).sha256() == read(book).sha256()


def test_hash_of_a_book_ignores_whether_an_absent_field_is_written() -> None:
    book = load("price_book--unit_and_graduated")
    book["prices"][0]["effective_until"] = None
    assert read(book).sha256() == read(load("price_book--unit_and_graduated")).sha256()


def test_hash_of_the_example_book_never_changes() -> None:
    """Invoices name books by it: a change here makes every proof of the past fail."""
    hashed = read(load("price_book--unit_and_graduated")).sha256()
    assert hashed == load("invoice--two_lines")["price_book_sha256"]


def test_hash_of_a_book_notices_every_single_change() -> None:
    book = load("price_book--unit_and_graduated")
    before = read(book).sha256()
    changed_places = 0
    for path in (leaf for leaf in leaves(book) if leaf[-1] != "kind"):
        other = load("price_book--unit_and_graduated")
        here: Any = other
        for key in path[:-1]:
            here = here[key]
        here[path[-1]] = changed(path, here[path[-1]])
        assert read(other).sha256() != before, path
        changed_places += 1
    assert changed_places > 25


def changed(path: tuple[str | int, ...], value: Any) -> Any:
    """Another valid value for the field at `path`."""
    field = path[-2] if isinstance(path[-1], int) else path[-1]
    if field in ("meter", "billed_meters"):
        return "gpu_ns"
    if field == "currency":
        return "EUR"
    if path[0] == "outcomes":
        return "unbilled" if value == "billed" else "billed"
    if isinstance(value, int):
        return value + (3_600_000 if field in ("effective_from", "effective_until") else 1)
    return f"{value}-2"
