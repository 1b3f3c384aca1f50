"""Reads one price of a price book file: money alone, or a mapping that says its kind."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from billing.yaml_source import MappingNode, Node, Source
from schemas.errors import MoneyError
from schemas.money import PRICE_SCALE, format_price, parse_price
from schemas.prices import HOURS_A_WEEK, SELECTORS
from schemas.units import HOURS_PER_DAY

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS = re.compile(r"(?P<first>[a-z]{3})(-(?P<last>[a-z]{3}))? (?P<from>\d\d)-(?P<to>\d\d)")


@dataclass(frozen=True, slots=True)
class Tier:
    """A service tier and what it multiplies prices by, scaled by 10^12."""

    name: str
    multiplier_e12: int


@dataclass(frozen=True, slots=True)
class Tariff:
    """One price of the file before it is multiplied for each tier.

    Attributes:
        meter: What it prices.
        per: How many units of the meter the written price is for.
        unit: How many units of the meter a count in the file means: 1 token, or a GPU-hour's ns.
        node: The price as written.
        cell: What a matrix narrows it to beyond its product.
    """

    meter: str
    per: int
    unit: int
    node: Node
    cell: tuple[tuple[str, str], ...] = ()


def price_e12(source: Source, node: Node, what: str) -> int:
    """A quoted decimal, scaled by 10^12."""
    try:
        return parse_price(source.money(node, what))
    except MoneyError as error:
        raise source.error(node, f"{what}: {error}") from error


def kind_of(source: Source, node: Node) -> str:
    """The kind of a price: `unit` where it is money alone."""
    if not isinstance(node, MappingNode):
        return "unit"
    kind_node = source.mapping(node, "a price").get("kind")
    if kind_node is None:
        raise source.error(node, f"a price has no 'kind'; kinds are {', '.join(KINDS)}")
    kind = source.text(kind_node[1], "kind")
    if kind not in KINDS:
        raise source.error(
            kind_node[1], f"unknown kind {kind!r} of a price; kinds are {', '.join(KINDS)}"
        )
    return kind


def cells(source: Source, tariff: Tariff, taken: frozenset[str]) -> Iterator[Tariff]:
    """The tariff itself, or one for each row of a matrix and one for `otherwise`.

    Args:
        source: The file.
        tariff: As written.
        taken: Selectors that the product fixes already; a matrix cannot fix them again.
    """
    if kind_of(source, tariff.node) != "matrix":
        yield tariff
        return
    parts = source.known(
        tariff.node, "a matrix", required=("kind", "by", "prices"), optional=("otherwise",)
    )
    by = [source.text(item, "by") for item in source.items(parts["by"], "by")]
    for name, item in zip(by, source.items(parts["by"], "by"), strict=True):
        if name not in SELECTORS or name in taken or by.count(name) > 1:
            free = ", ".join(one for one in SELECTORS if one not in taken)
            raise source.error(item, f"by: each once, of {free}; not {name!r}")
    for row in source.items(parts["prices"], "prices of a matrix"):
        values = source.items(row, "a row of a matrix")
        if len(values) != len(by) + 1:
            raise source.error(
                row, f"a row holds {', '.join(by)} and a price, {len(by) + 1} in all"
            )
        chosen = tuple(
            (name, source.text(value, name)) for name, value in zip(by, values[:-1], strict=True)
        )
        yield Tariff(tariff.meter, tariff.per, tariff.unit, values[-1], chosen)
    if "otherwise" in parts:
        yield Tariff(tariff.meter, tariff.per, tariff.unit, parts["otherwise"])


def pricing_of(source: Source, tariff: Tariff, tier: Tier) -> dict[str, Any]:
    """The fields of a `schemas.price_kinds.Pricing`, multiplied for the tier, exactly or not."""
    return KINDS[kind_of(source, tariff.node)](source, tariff, tier)


def per_of(source: Source, tariff: Tariff) -> int:
    """What the price is per; a package is priced as a whole."""
    return 1 if kind_of(source, tariff.node) == "package" else tariff.per


def hours_of_week(source: Source, node: Node) -> tuple[int, ...]:
    """Hours of the week in UTC from a list such as `[mon-fri 08-20, sat 00-24]`, 0 is Monday's."""
    hours: set[int] = set()
    for item in source.items(node, "hours_of_week"):
        text = source.text(item, "hours_of_week")
        found = _HOURS.fullmatch(text)
        first, last = (found["first"], found["last"] or found["first"]) if found else ("", "")
        start, end = (int(found["from"]), int(found["to"])) if found else (0, 0)
        if first not in DAYS or last not in DAYS or not 0 <= start < end <= HOURS_PER_DAY:
            raise source.error(
                item,
                f"hours_of_week: days and UTC hours such as mon-fri 08-20, not {text!r}; a night"
                " is written as two entries",
            )
        day = DAYS.index(first)
        count = (DAYS.index(last) - day) % len(DAYS) + 1
        for number in range(day, day + count):
            begin = number * HOURS_PER_DAY
            hours.update(hour % HOURS_A_WEEK for hour in range(begin + start, begin + end))
    return tuple(sorted(hours))


def _unit(source: Source, tariff: Tariff, tier: Tier) -> dict[str, Any]:
    if not isinstance(tariff.node, MappingNode):
        return {"kind": "unit", "unit_price_e12": _times(source, tariff.node, tier)}
    parts = source.known(
        tariff.node, "a unit price", required=("kind", "price"), optional=("included",)
    )
    unit_price_e12 = _times(source, parts["price"], tier)
    if "included" not in parts:
        return {"kind": "unit", "unit_price_e12": unit_price_e12}
    included = source.whole_number(parts["included"], "included") * tariff.unit
    return {
        "kind": "graduated",
        "steps": (
            {"up_to": included, "unit_price_e12": 0},
            {"up_to": None, "unit_price_e12": unit_price_e12},
        ),
    }


def _stepped(source: Source, tariff: Tariff, tier: Tier) -> dict[str, Any]:
    kind = kind_of(source, tariff.node)
    parts = source.known(tariff.node, f"a {kind} price", required=("kind", "steps"))
    steps = source.items(parts["steps"], "steps")
    return {"kind": kind, "steps": tuple(_step(source, step, tariff, tier) for step in steps)}


def _step(source: Source, node: Node, tariff: Tariff, tier: Tier) -> dict[str, int | None]:
    parts = source.known(node, "a step", required=("price",), optional=("up_to",))
    up_to = source.whole_number(parts["up_to"], "up_to") if "up_to" in parts else None
    return {
        "up_to": None if up_to is None else up_to * tariff.unit,
        "unit_price_e12": _times(source, parts["price"], tier),
    }


def _package(source: Source, tariff: Tariff, tier: Tier) -> dict[str, Any]:
    parts = source.known(tariff.node, "a package price", required=("kind", "size", "price"))
    return {
        "kind": "package",
        "size": source.whole_number(parts["size"], "size") * tariff.unit,
        "package_price_e12": _times(source, parts["price"], tier),
    }


def _cost_plus(source: Source, tariff: Tariff, tier: Tier) -> dict[str, Any]:
    """What it costs and a margin on it, as a share: 0.25 is a quarter more."""
    parts = source.known(tariff.node, "a cost-plus price", required=("kind", "cost", "margin"))
    margin_e12 = price_e12(source, parts["margin"], "margin")
    cost_e12 = _times(source, parts["cost"], tier)
    unit_price_e12 = _product(source, parts["cost"], cost_e12, PRICE_SCALE + margin_e12, "margin")
    return {"kind": "unit", "unit_price_e12": unit_price_e12}


def _hourly(source: Source, tariff: Tariff, tier: Tier) -> dict[str, Any]:
    parts = source.known(tariff.node, "an hourly price", required=("kind", "prices"))
    prices = source.items(parts["prices"], "prices of an hourly price")
    return {"kind": "hourly", "unit_prices_e12": tuple(_times(source, one, tier) for one in prices)}


def _no_matrix(source: Source, tariff: Tariff, _tier: Tier) -> dict[str, Any]:
    raise source.error(tariff.node, "a matrix cannot stand within a matrix")


def _times(source: Source, node: Node, tier: Tier) -> int:
    """A price times its tier's multiplier, exactly or not at all."""
    base_e12 = price_e12(source, node, "price")
    return _product(source, node, base_e12, tier.multiplier_e12, f"tier {tier.name}")


def _product(source: Source, node: Node, base_e12: int, factor_e12: int, what: str) -> int:
    product_e12, rest = divmod(base_e12 * factor_e12, PRICE_SCALE)
    if rest:
        raise source.error(
            node,
            f"{format_price(base_e12)} times {format_price(factor_e12)} ({what}) has more than 12"
            " decimals",
        )
    return product_e12


KINDS: Mapping[str, Callable[[Source, Tariff, Tier], dict[str, Any]]] = {
    "unit": _unit,
    "graduated": _stepped,
    "volume": _stepped,
    "package": _package,
    "cost_plus": _cost_plus,
    "hourly": _hourly,
    "matrix": _no_matrix,
}
"""Words for kinds of a price in the file; some are other ways to write a kind of the contract."""
