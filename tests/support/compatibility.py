"""Compares two JSON Schemas: does the new one still accept everything that the old one did?"""

from collections.abc import Iterator
from typing import Any

DIRECTION = {
    "minimum": 1,
    "minLength": 1,
    "minItems": 1,
    "exclusiveMinimum": 1,
    "maximum": -1,
    "maxLength": -1,
    "maxItems": -1,
    "exclusiveMaximum": -1,
}
"""1: a greater bound refuses more; -1: a smaller one does."""

Schema = dict[str, Any]


def incompatibilities(old: Schema, new: Schema) -> list[str]:
    """What the new schema refuses or has lost, one line each, the field's path first."""
    return list(_compare(_Side(old, old), _Side(new, new), "$"))


class _Side:
    """A place in one of the two documents, with its references resolved."""

    def __init__(self, document: Schema, here: Schema) -> None:
        while "$ref" in here:
            *_, name = here["$ref"].split("/")
            here = document["$defs"][name]
        self.document = document
        self.here = here

    def at(self, schema: Schema) -> "_Side":
        return _Side(self.document, schema)

    def branches(self) -> list["_Side"]:
        found = self.here.get("anyOf") or self.here.get("oneOf")
        return [self.at(branch) for branch in found] if found else [self]

    def accepted_values(self) -> set[object] | None:
        if "const" in self.here:
            return {self.here["const"]}
        return set(self.here["enum"]) if "enum" in self.here else None


def _compare(old: _Side, new: _Side, path: str) -> Iterator[str]:
    if len(old.branches()) > 1 or len(new.branches()) > 1:
        yield from _compare_branches(old, new, path)
        return
    if old.here.get("type") != new.here.get("type"):
        yield f"{path}: type {old.here.get('type')} became {new.here.get('type')}"
        return
    yield from _compare_values(old, new, path)
    yield from _compare_bounds(old.here, new.here, path)
    yield from _compare_fields(old, new, path)
    for keyword in ("items", "additionalProperties"):
        below_old, below_new = old.here.get(keyword), new.here.get(keyword)
        if isinstance(below_old, dict) and isinstance(below_new, dict):
            yield from _compare(old.at(below_old), new.at(below_new), f"{path}.{keyword}")
        elif below_old != below_new and below_new not in (None, True):
            yield f"{path}: {keyword} {below_old} became {below_new}"


def _compare_branches(old: _Side, new: _Side, path: str) -> Iterator[str]:
    for number, branch in enumerate(old.branches()):
        if all(list(_compare(branch, other, path)) for other in new.branches()):
            yield f"{path}: alternative {number} of {len(old.branches())} is no longer accepted"


def _compare_values(old: _Side, new: _Side, path: str) -> Iterator[str]:
    accepted = new.accepted_values()
    if accepted is None:
        return
    before = old.accepted_values()
    if before is None:
        yield f"{path}: only {sorted(map(str, accepted))} are accepted now"
    elif before - accepted:
        yield f"{path}: {sorted(map(str, before - accepted))} no longer accepted"


def _compare_bounds(old: Schema, new: Schema, path: str) -> Iterator[str]:
    for keyword, stricter in DIRECTION.items():
        if keyword not in new:
            continue
        if keyword not in old or (new[keyword] - old[keyword]) * stricter > 0:
            yield f"{path}: {keyword} {old.get(keyword)} became {new[keyword]}"
    for keyword in ("pattern", "multipleOf", "format"):
        if keyword in new and new[keyword] != old.get(keyword):
            yield f"{path}: {keyword} {old.get(keyword)} became {new[keyword]}"


def _compare_fields(old: _Side, new: _Side, path: str) -> Iterator[str]:
    before: Schema = old.here.get("properties", {})
    after: Schema = new.here.get("properties", {})
    for name in sorted(set(new.here.get("required", [])) - set(old.here.get("required", []))):
        yield f"{path}.{name}: is required now"
    for name, schema in before.items():
        if name in after:
            yield from _compare(old.at(schema), new.at(after[name]), f"{path}.{name}")
        else:
            yield f"{path}.{name}: was removed"
