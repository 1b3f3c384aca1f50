"""The ledger's columns can hold every value that the contracts let through."""

from typing import Any

import pytest

from schemas.billing import HourlyUsage
from schemas.control import DeadLetter
from schemas.fields import Contract
from schemas.fleet import EngineIntervalData
from schemas.generate import CONTRACTS
from schemas.prices import SELECTORS
from schemas.tables import (
    DEAD_LETTER_ROWS,
    ENGINE_INTERVALS,
    ENGINE_PARTS,
    ROLLUP_KEY,
    ROLLUP_MEASURES,
    TABLES,
    USAGE_EVENTS,
    Table,
)
from schemas.usage import METERS, EnginePart, EnginePartFinishedData, RequestFinishedData

UPPER = {"UInt16": 2**16 - 1, "UInt32": 2**32 - 1, "UInt64": 2**64 - 1, "Int64": 2**63 - 1}
RENAMED = {"partition": "kafka_partition", "offset": "kafka_offset", "value_base64": "value"}
PAIRS = [
    (RequestFinishedData, USAGE_EVENTS, {"parts"}),
    (EnginePartFinishedData, ENGINE_PARTS, set[str]()),
    (EngineIntervalData, ENGINE_INTERVALS, {"range"}),
    (DeadLetter, DEAD_LETTER_ROWS, set[str]()),
]


def too_narrow(model: type[Contract], types: dict[str, str], skip: set[str]) -> list[str]:
    """Fields whose column is missing, or cannot hold the greatest value that is allowed."""
    properties: dict[str, Any] = model.model_json_schema()["properties"]
    found = []
    for field, schema in properties.items():
        if field in skip:
            continue
        column = types.get(RENAMED.get(field, field))
        if column is None:
            found.append(f"{field}: no column")
        elif schema.get("type") == "integer" and schema["maximum"] > UPPER[column]:
            found.append(f"{field}: up to {schema['maximum']}, column is {column}")
    return found


def types_of(table: Table) -> dict[str, str]:
    return {column.name: column.type for column in table.columns}


@pytest.mark.parametrize(("model", "table", "skip"), PAIRS)
def test_every_field_has_a_column_that_holds_it(
    model: type[Contract], table: Table, skip: set[str]
) -> None:
    assert too_narrow(model, types_of(table), skip) == []


def test_every_field_of_a_part_has_an_array_that_holds_it() -> None:
    types = {
        name.removeprefix("parts_"): type_.removeprefix("Array(").removesuffix(")")
        for name, type_ in types_of(USAGE_EVENTS).items()
        if name.startswith("parts_")
    }
    assert too_narrow(EnginePart, types, set()) == []
    assert set(types) == set(EnginePart.model_fields)


def test_a_missing_and_a_narrow_column_are_found() -> None:
    types = types_of(ENGINE_PARTS) | {"gpu_ns": "UInt32"}
    del types["region"]
    assert too_narrow(EnginePartFinishedData, types, set()) == [
        f"gpu_ns: up to {2**58}, column is UInt32",
        "region: no column",
    ]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_table_is_sorted_and_marked_by_its_own_columns(table: Table) -> None:
    names = table.column_names()
    assert len(set(names)) == len(names)
    assert set(table.order_by) <= set(names)
    assert set(table.transport) <= set(names)


def test_rollup_keeps_every_dimension_that_a_price_selects_on() -> None:
    assert set(SELECTORS) <= set(ROLLUP_KEY)
    assert {"outcome", "api_key"} <= set(ROLLUP_KEY)


def test_rollup_measures_every_meter_of_requests() -> None:
    assert set(METERS) - {"reserved_gpu_ns"} <= set(ROLLUP_MEASURES)


def test_rating_reads_every_dimension_of_the_rollup() -> None:
    assert set(ROLLUP_KEY) <= set(HourlyUsage.__dataclass_fields__)


def test_no_contract_has_a_float() -> None:
    def types_in(content: Any) -> set[str]:
        if isinstance(content, dict):
            own = {content["type"]} if isinstance(content.get("type"), str) else set[str]()
            return own.union(*map(types_in, content.values()))
        if isinstance(content, list):
            return set[str]().union(*map(types_in, content))
        return set()

    assert "number" in types_in({"a": [{"type": "number"}]})
    for name, model in CONTRACTS.items():
        assert "number" not in types_in(model.model_json_schema()), name
