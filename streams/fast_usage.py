"""The fast way from `request.finished` values to columns: one C++ parser, then whole columns.

It may say "unsure" to anything and must never say yes to what `schemas.decode.decode_event`
refuses, nor read another value out of it. Fields, types and limits are read off the contract,
so they cannot drift; the contract's laws are written again below, over columns, and a contract
test fails when the contract gains one.

Arrow parses all values in one call, as lines, with the interpreter's lock released. It refuses
members that are unknown or doubled, and numbers that are not written as integers; it fills what
is missing with null, which is looked for below.
"""

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as arrow_json

from schemas.fields import Contract
from schemas.tables import USAGE_EVENTS
from schemas.units import VALUE_BYTES_MAX
from schemas.usage import MAX_PARTS, EnginePart, RequestFinished, RequestFinishedData
from streams import canonical_usage
from streams.columns import arrow_schema
from streams.vectors import (
    Members,
    Text,
    Unsure,
    Whole,
    demand,
    instants,
    integers,
    names,
    only_chunk,
    repeated_uuids,
    texts,
    uuid7_times,
    uuids,
)

LAWS = {
    RequestFinished: {"_time_is_the_time_of_the_id"},
    RequestFinishedData: {"_totals_agree"},
    EnginePart: {"_decode_is_accounted_for"},
}
"""The validators of the contract that this file repeats over columns."""

_SCHEMA = arrow_schema(USAGE_EVENTS)
_CLICKHOUSE_TYPES = {column.name: column.type for column in USAGE_EVENTS.columns}
_OPENING, _CLOSING = b"{}"
_JOINED_BYTES_MAX = 2**30


def _fields(contract: type[Contract], **nested: pa.DataType) -> list[pa.Field]:
    """What JSON holds for a contract: integers, texts (literals too), or what is nested."""
    return [
        pa.field(name, nested.get(name) or (pa.int64() if kind.annotation is int else pa.string()))
        for name, kind in contract.model_fields.items()
    ]


def _rules(contract: type[Contract]) -> dict[str, Any]:
    """`Text` or `Whole` per text and integer field of the contract, from its JSON Schema."""
    rules: dict[str, Text | Whole] = {}
    for name, field in contract.model_json_schema()["properties"].items():
        if field.get("type") == "integer":
            rules[name] = Whole(field["minimum"], field["maximum"])
        elif "pattern" in field:
            rules[name] = Text(field["pattern"], field.get("minLength", 0), field["maxLength"])
        elif "enum" in field or "const" in field:
            words = field.get("enum", [field.get("const")])
            pattern = "|".join(map(re.escape, words))
            rules[name] = Text(f"^(?:{pattern})$", 0, max(map(len, words)))
    return rules


_ENVELOPE_RULES = _rules(RequestFinished)
_DATA_RULES = _rules(RequestFinishedData)
_PART_RULES = _rules(EnginePart)
_PARSE_OPTIONS = arrow_json.ParseOptions(
    explicit_schema=pa.schema(
        _fields(
            RequestFinished,
            data=pa.struct(
                _fields(RequestFinishedData, parts=pa.list_(pa.struct(_fields(EnginePart))))
            ),
        )
    ),
    unexpected_field_behavior="error",
)


def columns(values: Sequence[bytes]) -> dict[str, pa.Array]:
    """Columns of `usage_events` except the content hash and the transport columns.

    Args:
        values: Of records, at least one.

    Raises:
        Unsure: If any of the values may not be a valid event; smaller groups tell which.
    """
    try:
        return _columns(_parse(values))
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise Unsure from error


def columns_of_canonical(values: Sequence[bytes]) -> tuple[dict[str, pa.Array], list[int]]:
    """The same, of values as our emitters write them; and the places of all others.

    Raises:
        Unsure: If any of them may not be a valid event.
    """
    try:
        members, others = canonical_usage.split(values)
        return _columns(members), others
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise Unsure from error


def _parse(values: Sequence[bytes]) -> Members:
    if max(map(len, values)) > VALUE_BYTES_MAX or not all(values):
        raise Unsure
    # Each value begins and ends a document: so each holds at least one, none reaches into the
    # next (no document goes on with `{` behind a `}`), and as many rows as values is one each.
    if {value[0] for value in values} != {_OPENING} or {value[-1] for value in values} != {
        _CLOSING
    }:
        raise Unsure
    joined = b"\n".join(values)
    # A NUL would look like the end of the input.
    if len(joined) > _JOINED_BYTES_MAX or b"\0" in joined:
        raise Unsure
    table = arrow_json.read_json(
        pa.BufferReader(joined),
        arrow_json.ReadOptions(use_threads=False, block_size=len(joined) + 1),
        _PARSE_OPTIONS,
    )
    if len(table) != len(values):
        raise Unsure
    envelope = {name: only_chunk(table.column(name)) for name in table.column_names}
    data = _members(envelope.pop("data"))
    lists = data.pop("parts")
    _nothing_missing(envelope | data | {"parts": lists})
    parts = _members(lists.flatten())
    _nothing_missing(parts)
    return Members(envelope, data, parts, lists.offsets)


def _columns(members: Members) -> dict[str, pa.Array]:
    envelope, data, offsets = members.envelope, members.data, members.part_offsets
    for name in ("specversion", "type", "datacontenttype"):
        names(envelope[name], _ENVELOPE_RULES[name])
    found = {
        "tenant": names(envelope["subject"], _ENVELOPE_RULES["subject"]),
        "event_id": uuids(envelope["id"], version_7=True),
        "source": repeated_uuids(envelope["source"]),
        "sequence": integers(envelope["sequence"], _ENVELOPE_RULES["sequence"]),
        **{name: _column(name, column) for name, column in data.items()},
    }
    found["event_time"] = uuid7_times(found["event_id"])
    demand(pc.equal(found["event_time"], instants(envelope["time"])))
    counts = integers(pc.subtract(offsets[1:], offsets[:-1]), Whole(0, MAX_PARTS))
    parts = _parts(members.parts)
    _obey_laws(found, parts["gpu_ns"], offsets, counts)
    for name, column in parts.items():
        found[f"parts_{name}"] = pa.ListArray.from_arrays(offsets, column)
    return {name: _as_stored(name, column) for name, column in found.items()}


def _column(name: str, column: pa.Array) -> pa.Array:
    kind = _CLICKHOUSE_TYPES[name]
    if kind.startswith("DateTime64"):
        return instants(column)
    rule = _DATA_RULES[name]
    if isinstance(rule, Whole):
        return integers(column, rule)
    return names(column, rule) if kind.startswith("LowCardinality") else texts(column, rule)


def _parts(members: dict[str, pa.Array]) -> dict[str, pa.Array]:
    """Columns over all parts of all events."""
    found = {}
    for name, column in members.items():
        rule = _PART_RULES[name]
        found[name] = integers(column, rule) if isinstance(rule, Whole) else repeated_uuids(column)
    explained = pc.add_checked(
        pc.max_element_wise(pc.subtract(found["generated_tokens"], 1), 0),
        pc.add_checked(found["drafts_rejected_tokens"], found["discarded_tokens"]),
    )
    demand(pc.equal(found["decode_scheduled_tokens"], explained))
    return found


def _obey_laws(
    found: dict[str, pa.Array], part_gpu_ns: pa.Array, offsets: pa.Array, counts: pa.Array
) -> None:
    """What the validator of the request's totals asks."""
    running = pa.concat_arrays(
        [pa.array([0], pa.int64()), pc.cumulative_sum_checked(part_gpu_ns)]
    ).take(offsets)
    demand(pc.equal(found["gpu_ns"], pc.subtract(running[1:], running[:-1])))
    demand(pc.less_equal(found["gpu_prefill_ns"], found["gpu_ns"]))
    demand(pc.less_equal(found["gpu_recompute_ns"], found["gpu_ns"]))
    visible = pc.add_checked(found["output_text_tokens"], found["output_reasoning_tokens"])
    said = pc.add_checked(visible, found["hidden_tokens"])
    demand(pc.less_equal(said, found["generated_tokens"]))
    demand(pc.less_equal(found["delivered_tokens"], visible))
    if "refused" in found["outcome"].dictionary.to_pylist():
        refused = pc.equal(found["outcome"].dictionary_decode(), "refused")
        reached_none = pc.equal(counts, 0)
        demand(pc.or_(pc.invert(refused), reached_none))


def _members(structs: pa.StructArray) -> dict[str, pa.Array]:
    if structs.null_count:
        raise Unsure
    kind = structs.type
    return {kind.field(place).name: structs.field(place) for place in range(kind.num_fields)}


def _nothing_missing(members: dict[str, pa.Array]) -> None:
    if any(column.null_count for column in members.values()):
        raise Unsure


def _as_stored(name: str, column: pa.Array) -> pa.Array:
    stored = _SCHEMA.field(name).type
    return column if column.type == stored else column.cast(stored)
