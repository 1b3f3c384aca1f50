"""Reads one product of a price book file: what it selects, its tiers, and its prices by date."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import ValidationError

from billing.price_kind_file import Tariff, Tier, cells, hours_of_week, per_of, pricing_of
from billing.yaml_source import Node, ScalarNode, Source
from schemas.money import PRICE_SCALE
from schemas.periods import hour_text
from schemas.prices import SELECTORS, Price
from schemas.units import MS_PER_S, NS_PER_HOUR

PER_TOKENS = {
    "input": ("input_uncached_tokens",),
    "cached": ("input_cache_read_tokens",),
    "cache_write": ("input_cache_write_tokens",),
    "output": ("output_text_tokens", "output_reasoning_tokens"),
    "reasoning": ("output_reasoning_tokens",),
}
"""Words of the file for prices by the token, and the meters that each prices.

Order matters: `reasoning` takes its meter over from `output`.
"""
PER_THING = {
    "gpu_hour": ("gpu_ns", NS_PER_HOUR),
    "reserved_gpu_hour": ("reserved_gpu_ns", NS_PER_HOUR),
    "request": ("requests", 1),
}
"""Words of the file for all other prices: the meter, and how many of its units the word means."""
ANY_TIER = "any"
HOURS = "hours_of_week"
_HOUR = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:00Z")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the book says for all products: the unit of token prices, and the tiers."""

    per: int
    tiers: tuple[Tier, ...]


@dataclass(frozen=True, slots=True)
class PlacedPrice:
    """A price and the place in the file that it comes from."""

    price: Price
    node: Node


@dataclass(frozen=True, slots=True)
class _Product:
    name: str
    select: dict[str, str | tuple[int, ...]]
    tiers: tuple[Tier, ...]
    per: int


@dataclass(frozen=True, slots=True)
class _Span:
    prices: dict[str, Node]
    entry: Node
    from_ms: int
    until_ms: int | None


def product_prices(
    source: Source, name: str, node: Node, defaults: Defaults
) -> Iterator[PlacedPrice]:
    """Every price of a product: one per date, meter and tier.

    Raises:
        PriceBookError: If anything in it is wrong; the message starts with `file:line`.
    """
    what = f"product {name}"
    parts = source.known(
        node, what, required=("select", "prices"), optional=("kind", "tiers", "per")
    )
    if "kind" in parts and (kind := source.text(parts["kind"], "kind")) != "usage":
        raise source.error(parts["kind"], f"{what}: unknown kind {kind!r}; the kind is usage")
    tiers = defaults.tiers
    if "tiers" in parts:
        tiers = _chosen_tiers(source, parts["tiers"], what, tiers)
    selectors = (*SELECTORS, HOURS)
    select = source.known(parts["select"], f"select of {what}", required=(), optional=selectors)
    if tiers and "service_tier" in select:
        raise source.error(
            select["service_tier"], f"{what}: choose tiers with `tiers`, not in `select`"
        )
    product = _Product(
        name=name,
        select={
            field: hours_of_week(source, value) if field == HOURS else source.text(value, field)
            for field, value in select.items()
        },
        tiers=tiers,
        per=source.whole_number(parts["per"], "per") if "per" in parts else defaults.per,
    )
    taken = frozenset((*product.select, *(("service_tier",) if product.tiers else ())))
    for span in _spans(source, parts["prices"], what):
        for tariff in _tariffs(product, span):
            for cell in cells(source, tariff, taken):
                for tier in product.tiers or (Tier("", PRICE_SCALE),):
                    yield PlacedPrice(_price(source, product, span, cell, tier), cell.node)


def _chosen_tiers(
    source: Source, node: Node, what: str, tiers: tuple[Tier, ...]
) -> tuple[Tier, ...]:
    """The tiers that a product names; none where it says `any`."""
    if isinstance(node, ScalarNode) and source.text(node, f"tiers of {what}") == ANY_TIER:
        return ()
    known = {tier.name: tier for tier in tiers}
    chosen: list[Tier] = []
    for item in source.items(node, f"tiers of {what}"):
        name = source.text(item, f"a tier of {what}")
        if name not in known:
            raise source.error(item, f"{what}: unknown tier {name!r}; tiers are {', '.join(known)}")
        if known[name] in chosen:
            raise source.error(item, f"{what} has tier {name!r} twice")
        chosen.append(known[name])
    return tuple(chosen)


def _spans(source: Source, node: Node, what: str) -> list[_Span]:
    """When each entry of a price list holds: without `until`, up to the next entry's `from`."""
    words = (*PER_TOKENS, *PER_THING)
    spans: list[_Span] = []
    for entry in source.items(node, f"prices of {what}"):
        found = source.mapping(entry, f"a price of {what}")
        for word, (word_node, _) in found.items():
            if word not in ("from", "until", *words):
                raise source.error(
                    word_node, f"unknown meter {word!r} in {what}; one of {', '.join(words)}"
                )
        parts = {word: value for word, (_, value) in found.items()}
        if "from" not in parts:
            raise source.error(entry, f"a price of {what} has no 'from'")
        from_ms = _hour_ms(source, parts.pop("from"), "from")
        until = parts.pop("until", None)
        until_ms = None if until is None else _hour_ms(source, until, "until")
        if not parts:
            raise source.error(entry, f"a price of {what} names no meter; one of {words}")
        if spans and from_ms <= spans[-1].from_ms:
            raise source.error(
                entry,
                f"overlap: prices of {what} follow in order of time, but {hour_text(from_ms)}"
                f" is not after {hour_text(spans[-1].from_ms)}",
            )
        if spans and spans[-1].until_ms is None:
            before = spans.pop()
            spans.append(_Span(before.prices, before.entry, before.from_ms, from_ms))
        spans.append(_Span(parts, entry, from_ms, until_ms))
    return spans


def _hour_ms(source: Source, node: Node, what: str) -> int:
    text = source.written(node, what)
    if _DAY.fullmatch(text):
        form = "%Y-%m-%d"
    elif _HOUR.fullmatch(text):
        form = "%Y-%m-%dT%H:%MZ"
    else:
        raise source.error(
            node, f"{what}: a whole UTC hour such as 2026-01-01 or 2026-01-01T13:00Z, not {text!r}"
        )
    try:
        return int(datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()) * MS_PER_S
    except ValueError as error:
        raise source.error(node, f"{what}: there is no such time as {text!r}") from error


def _tariffs(product: _Product, span: _Span) -> list[Tariff]:
    tariffs: dict[str, Tariff] = {}
    for word, meters in PER_TOKENS.items():
        if word in span.prices:
            for meter in meters:
                tariffs[meter] = Tariff(meter, product.per, 1, span.prices[word])
    for word, (meter, unit) in PER_THING.items():
        if word in span.prices:
            tariffs[meter] = Tariff(meter, unit, unit, span.prices[word])
    return list(tariffs.values())


def _price(source: Source, product: _Product, span: _Span, tariff: Tariff, tier: Tier) -> Price:
    chosen = dict(tariff.cell) | ({"service_tier": tier.name} if tier.name else {})
    names = (product.name, tier.name, *(value for _, value in tariff.cell))
    start = hour_text(span.from_ms)
    try:
        return Price.model_validate(
            {
                "id": "/".join(filter(None, (*names, tariff.meter, start))),
                "meter": tariff.meter,
                "select": product.select | chosen,
                "effective_from": span.from_ms,
                "effective_until": span.until_ms,
                "per": per_of(source, tariff),
                "pricing": pricing_of(source, tariff, tier),
            }
        )
    except ValidationError as error:
        raise source.refused(tariff.node, error) from error
