"""Today's contracts still accept everything that a released version accepted."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas.generate import CONTRACTS, json_schema
from tests.support.compatibility import incompatibilities
from tests.support.examples import ROOT, contract_name, refusal

RELEASED = ROOT / "schemas/released"
SCHEMAS = sorted(RELEASED.glob("v*/*.schema.json"))
EXAMPLES = sorted(RELEASED.glob("v*/examples/*.json"))


def show(path: Path) -> str:
    return str(path.relative_to(RELEASED))


def test_there_is_a_release_to_hold_to() -> None:
    assert SCHEMAS
    assert EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=show)
def test_released_example_is_still_accepted(path: Path) -> None:
    assert refusal(contract_name(path), path.read_bytes()) is None


@pytest.mark.parametrize("path", SCHEMAS, ids=show)
def test_schema_is_compatible_with_the_released_one(path: Path) -> None:
    name = path.name.removesuffix(".schema.json")
    assert name in CONTRACTS, f"{name} was released and is gone"
    found = incompatibilities(json.loads(path.read_text()), json_schema(name))
    assert not found, f"this needs a new version of {name}, beside the old one: {found}"


def remove_a_field(schema: dict[str, Any]) -> None:
    del schema["$defs"]["RequestFinishedData"]["properties"]["region"]


def require_a_new_field(schema: dict[str, Any]) -> None:
    data = schema["$defs"]["RequestFinishedData"]
    data["properties"]["flavour"] = {"type": "string"}
    data["required"].append("flavour")


def narrow_an_enum(schema: dict[str, Any]) -> None:
    schema["$defs"]["RequestFinishedData"]["properties"]["outcome"]["enum"].remove("abort")


def change_a_type(schema: dict[str, Any]) -> None:
    schema["$defs"]["EnginePart"]["properties"]["gpu_ns"]["type"] = "number"


def lower_a_bound(schema: dict[str, Any]) -> None:
    schema["$defs"]["RequestFinishedData"]["properties"]["parts"]["maxItems"] = 1


def change_a_constant(schema: dict[str, Any]) -> None:
    schema["properties"]["type"]["const"] = "io.rentroll.request.finished.v2"


def tighten_a_pattern(schema: dict[str, Any]) -> None:
    schema["properties"]["subject"]["pattern"] = "^[a-z]+$"


@pytest.mark.parametrize(
    ("plant", "named"),
    [
        (remove_a_field, "$.data.region: was removed"),
        (require_a_new_field, "$.data.flavour: is required now"),
        (narrow_an_enum, "$.data.outcome: ['abort'] no longer accepted"),
        (change_a_type, "$.data.parts.items.gpu_ns: type integer became number"),
        (lower_a_bound, "$.data.parts: maxItems 1024 became 1"),
        (change_a_constant, "$.type: ['io.rentroll.request.finished.v1'] no longer accepted"),
        (tighten_a_pattern, "$.subject: pattern ^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$ became ^[a-z]+$"),
    ],
)
def test_planted_incompatibility_is_found(
    plant: Callable[[dict[str, Any]], None], named: str
) -> None:
    old = json_schema("request.finished")
    new = copy.deepcopy(old)
    plant(new)
    assert incompatibilities(old, new) == [named]


def test_a_lost_alternative_is_found() -> None:
    old = json_schema("price_book")
    new = copy.deepcopy(old)
    del new["$defs"]["GraduatedPricing"]
    pricing = new["$defs"]["Price"]["properties"]["pricing"]
    pricing["oneOf"] = [one for one in pricing["oneOf"] if "Graduated" not in one["$ref"]]
    assert len(incompatibilities(old, new)) == 1


def test_additions_are_compatible() -> None:
    old = json_schema("request.finished")
    new = copy.deepcopy(old)
    data = new["$defs"]["RequestFinishedData"]
    data["properties"]["flavour"] = {"type": "string", "default": ""}
    data["properties"]["outcome"]["enum"].append("budget")
    data["properties"]["parts"]["maxItems"] = 4096
    assert incompatibilities(old, new) == []
