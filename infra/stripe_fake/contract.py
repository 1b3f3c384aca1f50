"""Checks requests and answers against the cut of Stripe's OpenAPI file in `contract.json`."""

import json
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

Schema = dict[str, Any]
"""A schema of OpenAPI 3.0, as the file holds it."""
_DECIMAL = re.compile(r"-?\d+(\.\d{1,12})?")
_INTEGER = re.compile(r"-?\d+")
_PYTHON_TYPES: dict[str, type] = {"integer": int, "boolean": bool, "string": str}
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing that breaks the contract: where, and what is wrong there."""

    at: str
    problem: str
    code: str = "parameter_invalid"

    def __str__(self) -> str:
        return f"{self.at}: {self.problem}"


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the API, such as `POST /v1/invoices/{invoice}/finalize`."""

    name: str
    request: Schema
    answer: Schema
    pattern: re.Pattern[str]


class Contract:
    """Stripe's own description of the operations we know."""

    def __init__(self, description: dict[str, Any] | None = None) -> None:
        """Take a description in the form of `contract.json`; by default that file's."""
        if description is None:
            text = files("infra.stripe_fake").joinpath("contract.json").read_text()
            description = json.loads(text)
        self._schemas: dict[str, Schema] = description["schemas"]
        found = [_operation(name, raw) for name, raw in description["operations"].items()]
        # Literal paths before those with an id, so that `/invoices/search` is not an invoice.
        self._operations = sorted(found, key=lambda one: one.name.count("{"))

    def operation(self, method: str, path: str) -> tuple[Operation, dict[str, str]] | None:
        """The operation that a request names, and the ids in its path."""
        for operation in self._operations:
            hit = operation.pattern.fullmatch(f"{method} {path}")
            if hit:
                return operation, hit.groupdict()
        return None

    def read_request(
        self, operation: Operation, parameters: dict[str, Any]
    ) -> tuple[dict[str, Any], list[Complaint]]:
        """Form text turned into typed values, and what is wrong with it."""
        complaints: list[Complaint] = []
        return self._read(operation.request, parameters, "", complaints), complaints

    def check_answer(self, operation: Operation, answer: Any) -> list[Complaint]:
        """What Stripe could not have answered; empty for a good answer."""
        complaints: list[Complaint] = []
        self._check(operation.answer, answer, "$", complaints)
        return complaints

    def _resolve(self, schema: Schema) -> Schema:
        if "$ref" in schema:
            return self._schemas[schema["$ref"].rsplit("/", 1)[1]]
        return schema

    # Requests: form strings become typed values.

    def _read(self, schema: Schema, value: Any, at: str, out: list[Complaint]) -> Any:
        schema = self._resolve(schema)
        if "anyOf" in schema:
            return self._read_any(schema["anyOf"], value, at, out)
        kind = schema.get("type")
        if kind == "object":
            return self._read_object(schema, value, at, out)
        if kind == "array":
            return self._read_array(schema, value, at, out)
        if isinstance(value, dict | list):
            out.append(Complaint(at, f"Invalid {kind}: {at}"))
            return value
        return _read_scalar(schema, str(value), at, out)

    def _read_any(self, kinds: list[Schema], value: Any, at: str, out: list[Complaint]) -> Any:
        best: list[Complaint] | None = None
        for kind in kinds:
            complaints: list[Complaint] = []
            result = self._read(kind, value, at, complaints)
            if not complaints:
                return result
            if best is None or self._resolve(kind).get("type") in {"object", "array"}:
                best = complaints
        out.extend(best or [])
        return value

    def _read_object(self, schema: Schema, value: Any, at: str, out: list[Complaint]) -> Any:
        if not isinstance(value, dict):
            out.append(Complaint(at, "Invalid object"))
            return value
        known: dict[str, Schema] = schema.get("properties", {})
        others = schema.get("additionalProperties", not known)
        result = {}
        for name, one in value.items():
            inner = f"{at}[{name}]" if at else name
            if name in known:
                result[name] = self._read(known[name], one, inner, out)
            elif isinstance(others, dict):
                result[name] = self._read(others, one, inner, out)
            elif others and not known:
                result[name] = one
            else:
                out.append(
                    Complaint(inner, f"Received unknown parameter: {inner}", "parameter_unknown")
                )
        for name in schema.get("required", []):
            if name not in value:
                inner = f"{at}[{name}]" if at else name
                out.append(
                    Complaint(inner, f"Missing required param: {inner}.", "parameter_missing")
                )
        return result

    def _read_array(self, schema: Schema, value: Any, at: str, out: list[Complaint]) -> Any:
        if isinstance(value, dict) and all(name.isdigit() for name in value):
            value = [value[name] for name in sorted(value, key=int)]
        if not isinstance(value, list):
            out.append(Complaint(at, "Invalid array"))
            return value
        return [self._read(schema["items"], one, f"{at}[{n}]", out) for n, one in enumerate(value)]

    # Answers: typed values are compared.

    def _check(self, schema: Schema, value: Any, at: str, out: list[Complaint]) -> None:
        schema = self._resolve(schema)
        if value is None:
            if not schema.get("nullable"):
                out.append(Complaint(at, "null is not allowed"))
        elif "anyOf" in schema:
            self._check_any(schema["anyOf"], value, at, out)
        elif schema.get("type") == "object":
            self._check_object(schema, value, at, out)
        elif schema.get("type") == "array":
            if not isinstance(value, list):
                out.append(Complaint(at, "not a list"))
                return
            for n, one in enumerate(value):
                self._check(schema["items"], one, f"{at}[{n}]", out)
        else:
            _check_scalar(schema, value, at, out)

    def _check_any(self, kinds: list[Schema], value: Any, at: str, out: list[Complaint]) -> None:
        best: list[Complaint] | None = None
        for kind in kinds:
            complaints: list[Complaint] = []
            self._check(kind, value, at, complaints)
            if not complaints:
                return
            if best is None or len(complaints) < len(best):
                best = complaints
        out.extend(best or [])

    def _check_object(self, schema: Schema, value: Any, at: str, out: list[Complaint]) -> None:
        if not isinstance(value, dict):
            out.append(Complaint(at, "not an object"))
            return
        known: dict[str, Schema] = schema.get("properties", {})
        out.extend(
            Complaint(f"{at}.{name}", "missing")
            for name in schema.get("required", [])
            if name not in value
        )
        others = schema.get("additionalProperties", not known)
        for name, one in value.items():
            if name in known:
                self._check(known[name], one, f"{at}.{name}", out)
            elif isinstance(others, dict):
                self._check(others, one, f"{at}.{name}", out)
            elif not others:
                out.append(Complaint(f"{at}.{name}", "not in Stripe's schema"))


def _operation(name: str, raw: dict[str, Any]) -> Operation:
    request = raw["body"]
    if request is None or name.startswith("GET"):
        required = [one for one, schema in raw["query"].items() if schema.get("required")]
        request = {
            "type": "object",
            "properties": raw["query"],
            "required": required,
            "additionalProperties": False,
        }
    pattern = re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(name)))
    return Operation(name, request, raw["response"], pattern)


def _read_scalar(schema: Schema, text: str, at: str, out: list[Complaint]) -> Any:
    kind = schema.get("type")
    if kind == "integer":
        if _INTEGER.fullmatch(text):
            return int(text)
        out.append(Complaint(at, f"Invalid integer: {text}"))
    elif kind == "boolean":
        if text in _BOOLEANS:
            return _BOOLEANS[text]
        out.append(Complaint(at, f"Invalid boolean: {text}"))
    elif schema.get("format") == "decimal" and not _DECIMAL.fullmatch(text):
        out.append(Complaint(at, f"Invalid decimal: {text}"))
    elif "enum" in schema and text not in schema["enum"]:
        allowed = ", ".join(schema["enum"])
        out.append(Complaint(at, f"Invalid {at}: must be one of {allowed}"))
    elif len(text) > schema.get("maxLength", len(text)):
        limit = schema["maxLength"]
        out.append(
            Complaint(at, f"Invalid string: {text[:20]}...; must be at most {limit} characters")
        )
    return text


def _check_scalar(schema: Schema, value: Any, at: str, out: list[Complaint]) -> None:
    kind = schema.get("type")
    expected = _PYTHON_TYPES.get(str(kind))
    if expected is not None and type(value) is not expected:
        out.append(Complaint(at, f"not of type {kind} ({value!r})"))
    elif "enum" in schema and value not in schema["enum"]:
        out.append(Complaint(at, f"{value!r} is not one of {schema['enum']}"))
    elif isinstance(value, str) and len(value) > schema.get("maxLength", len(value)):
        out.append(Complaint(at, f"longer than {schema['maxLength']}"))
