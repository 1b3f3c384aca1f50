"""Cuts Stripe's published OpenAPI file down to the operations that the stand-in knows.

Usage: `python -m infra.stripe_fake.cut_contract spec3.json contract.json`, where `spec3.json` is
`openapi/spec3.json` of github.com/stripe/openapi (MIT).
"""

import argparse
import json
from pathlib import Path
from typing import Any

OPERATIONS = (
    "POST /v1/customers",
    "GET /v1/customers",
    "GET /v1/customers/{customer}",
    "POST /v1/customers/{customer}",
    "DELETE /v1/customers/{customer}",
    "POST /v1/invoices",
    "GET /v1/invoices",
    "GET /v1/invoices/search",
    "GET /v1/invoices/{invoice}",
    "POST /v1/invoices/{invoice}",
    "DELETE /v1/invoices/{invoice}",
    "POST /v1/invoices/{invoice}/add_lines",
    "GET /v1/invoices/{invoice}/lines",
    "POST /v1/invoices/{invoice}/finalize",
    "POST /v1/invoices/{invoice}/send",
    "POST /v1/invoices/{invoice}/pay",
    "POST /v1/invoices/{invoice}/void",
    "POST /v1/invoices/{invoice}/mark_uncollectible",
    "POST /v1/invoiceitems",
    "GET /v1/invoiceitems",
    "POST /v1/credit_notes",
    "GET /v1/events",
    "GET /v1/events/{id}",
    "POST /v1/products",
    "POST /v1/billing/meters",
    "POST /v1/billing/meter_events",
)
"""What is kept of the file; the stand-in serves a part of it (`operations.SERVED`)."""
REFERENCE = "$ref"
_PROSE = frozenset({"description", "title"})


class Cutter:
    """Copies schemas without prose and remembers which others they refer to."""

    def __init__(self, schemas: dict[str, Any]) -> None:
        self._schemas = schemas
        self._wanted: list[str] = []

    def cut(self, node: Any) -> Any:
        """A copy of `node` without descriptions and vendor extensions."""
        if isinstance(node, list):
            return [self.cut(one) for one in node]
        if not isinstance(node, dict):
            return node
        if _is_expandable(node):
            # We never expand, so only the id is a legal answer.
            kept = {k: v for k, v in node.items() if k != "anyOf" and not _is_prose(k)}
            return kept | {"type": "string"}
        if REFERENCE in node:
            self._wanted.append(node[REFERENCE].rsplit("/", 1)[1])
        result = {}
        for key, value in node.items():
            if key == "properties":
                result[key] = {name: self.cut(schema) for name, schema in value.items()}
            elif not _is_prose(key):
                result[key] = self.cut(value)
        return result

    def referred(self) -> dict[str, Any]:
        """Every schema that was referred to, directly or through another."""
        done: dict[str, Any] = {}
        while self._wanted:
            name = self._wanted.pop()
            if name not in done:
                done[name] = self.cut(self._schemas[name])
        return done


def cut_contract(spec: dict[str, Any], operations: tuple[str, ...] = OPERATIONS) -> dict[str, Any]:
    """The part of Stripe's OpenAPI file that describes `operations`."""
    cutter = Cutter(spec["components"]["schemas"])
    kept = {}
    for name in operations:
        method, path = name.split()
        operation = spec["paths"][path][method.lower()]
        content = operation.get("requestBody", {}).get("content", {})
        form = content.get("application/x-www-form-urlencoded", {}).get("schema")
        answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
        kept[name] = {
            "body": cutter.cut(form) if form else None,
            "query": {
                one["name"]: cutter.cut(one["schema"]) | {"required": one.get("required", False)}
                for one in operation.get("parameters", [])
                if one["in"] == "query"
            },
            "response": cutter.cut(answer),
        }
    cutter.cut({REFERENCE: "#/components/schemas/error"})
    return {
        "openapi_version": spec["info"]["version"],
        "source": "https://github.com/stripe/openapi (MIT)",
        "operations": kept,
        "schemas": cutter.referred(),
    }


def _is_prose(key: str) -> bool:
    return key in _PROSE or key.startswith("x-")


def _is_expandable(node: dict[str, Any]) -> bool:
    kinds = node.get("anyOf", [])
    has_id = any(kind.get("type") == "string" and "enum" not in kind for kind in kinds)
    return has_id and any(REFERENCE in kind for kind in kinds)


def main() -> None:
    """Read the published file, write the cut."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", type=Path, help="spec3.json as Stripe publishes it")
    parser.add_argument("out", type=Path, help="where the cut goes")
    arguments = parser.parse_args()
    cut = cut_contract(json.loads(arguments.spec.read_text()))
    arguments.out.write_text(json.dumps(cut, separators=(",", ":"), sort_keys=True))


if __name__ == "__main__":
    main()
