"""Golden examples: the valid ones pass, the invalid ones fail and the error names the field."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from schemas.generate import CONTRACTS
from schemas.topics import EVENTS
from tests.support.examples import (
    INVALID,
    ROOT,
    VALID,
    contract_name,
    example_files,
    manifest,
    read_as,
    refusal,
)

VALID_FILES = example_files(VALID)
INVALID_FILES = example_files(INVALID)


def name_of(path: Path) -> str:
    return path.stem


def schema_errors(path: Path) -> list[str]:
    schema_path = ROOT / f"schemas/generated/v1/{contract_name(path)}.schema.json"
    schema: dict[str, Any] = json.loads(schema_path.read_text())
    Draft202012Validator.check_schema(schema)
    found = Draft202012Validator(schema).iter_errors(json.loads(path.read_text()))
    return [error.message for error in found]


@pytest.mark.parametrize("path", VALID_FILES, ids=name_of)
def test_valid_example_is_accepted(path: Path) -> None:
    assert refusal(contract_name(path), path.read_bytes()) is None
    assert schema_errors(path) == []


@pytest.mark.parametrize("path", VALID_FILES, ids=name_of)
def test_valid_example_survives_a_round_trip(path: Path) -> None:
    name = contract_name(path)
    model = read_as(name, path.read_bytes())
    assert read_as(name, model.model_dump_json().encode()) == model
    assert CONTRACTS[name].model_validate_json(model.canonical_json()) == model


@pytest.mark.parametrize("path", INVALID_FILES, ids=name_of)
def test_invalid_example_is_refused_and_the_error_names_the_field(path: Path) -> None:
    error = refusal(contract_name(path), path.read_bytes())
    assert error is not None, "it must be refused"
    assert manifest()[path.name]["field"] in error


@pytest.mark.parametrize("path", INVALID_FILES, ids=name_of)
def test_json_schema_refuses_what_is_invalid_by_shape_and_only_that(path: Path) -> None:
    refused = bool(schema_errors(path))
    assert refused == (manifest()[path.name]["refused_by"] == "shape")


def test_manifest_names_each_invalid_example_once() -> None:
    assert set(manifest()) == {path.name for path in INVALID_FILES}


def test_every_contract_has_examples() -> None:
    valid = Counter(map(contract_name, VALID_FILES))
    invalid = Counter(map(contract_name, INVALID_FILES))
    assert set(valid) == set(invalid) == set(CONTRACTS), "examples are named <contract>--<what>"
    for name, model in CONTRACTS.items():
        assert valid[name] >= 2, f"{name} needs two valid examples"
        assert invalid[name] >= (3 if model in EVENTS else 1), f"{name} needs invalid examples"
