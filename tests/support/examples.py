"""The golden examples of `schemas/examples`, and how to read one as its contract."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schemas.decode import decode_event
from schemas.errors import MalformedEventError
from schemas.fields import Contract
from schemas.generate import CONTRACTS
from schemas.topics import EVENTS

ROOT = Path(__file__).resolve().parents[2]
VALID = ROOT / "schemas/examples/v1/valid"
INVALID = ROOT / "schemas/examples/v1/invalid"
MANIFEST = "manifest.json"


def example_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.json") if path.name != MANIFEST)


def contract_name(path: Path) -> str:
    """The contract that an example is of: its file is `<contract>--<what is special>.json`."""
    return path.name.split("--")[0]


def manifest() -> dict[str, dict[str, str]]:
    """Per invalid example: the `field` that the error names, and what refuses it.

    `refused_by` is `shape` where the JSON Schema refuses it too, `rule` where only the model can.
    """
    content: dict[str, dict[str, str]] = json.loads((INVALID / MANIFEST).read_text())
    return content


def load(name: str) -> dict[str, Any]:
    """A valid example as plain JSON, ready to be changed in one place."""
    content: dict[str, Any] = json.loads((VALID / f"{name}.json").read_text())
    return content


def read_as(name: str, value: bytes) -> Contract:
    """Read bytes as the contract `name`, events by way of the one decoder."""
    model = CONTRACTS[name]
    return decode_event(value) if model in EVENTS else model.model_validate_json(value)


def refusal(name: str, value: bytes) -> str | None:
    """Why bytes are not a valid `name`; None if they are."""
    try:
        read_as(name, value)
    except (MalformedEventError, ValidationError) as error:
        return str(error)
    return None


def refusal_of(name: str, content: dict[str, Any]) -> str | None:
    """Why a changed example is not a valid `name`; None if it is."""
    return refusal(name, json.dumps(content).encode())
