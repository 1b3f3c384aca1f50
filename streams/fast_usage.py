"""The fast way from `request.finished` values to columns: one C parser, then whole columns.

It may say "unsure" to anything and must never say yes to what `schemas.decode.decode_event`
refuses, nor read another value out of it. Fields, types and limits are read off the contract,
so they cannot drift; the contract's laws are written again below, over columns, and a contract
test fails when the contract gains one.
"""

import re
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from schemas.fields import Contract
from schemas.tables import USAGE_EVENTS
from schemas.units import VALUE_BYTES_MAX
from schemas.usage import MAX_PARTS, EnginePart, RequestFinished, RequestFinishedData
from streams.columns import arrow_schema
from streams.vectors import (
    Text,
    Unsure,
    Whole,
    instants,
    integers,
    names,
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
_PART_PREFIX = "parts_"


def _struct(contract: type[Contract], **nested: Any) -> type[msgspec.Struct]:
    """A msgspec struct with the contract's fields; what it cannot say, the columns check."""
    fields = []
    for name, field in contract.model_fields.items():
        # Alone, `int` would take 1.0, which the contract refuses: let it show as a float.
        kind: Any = int | float if field.annotation is int else field.annotation
        fields.append((name, nested.get(name, kind)))
    return msgspec.defstruct(contract.__name__, fields, forbid_unknown_fields=True, gc=False)


def _rules(contract: type[Contract]) -> dict[str, Any]:
    """`Text` or `Whole` per text and integer field of the contract, from its JSON Schema."""
    rules: dict[str, Text | Whole] = {}
    for name, field in contract.model_json_schema()["properties"].items():
        if field.get("type") == "integer":
            rules[name] = Whole(field["minimum"], field["maximum"])
        elif "pattern" in field:
            pattern = field["pattern"]
            rules[name] = Text.of(pattern, field.get("minLength", 0), field["maxLength"])
        elif "enum" in field:
            pattern = "|".join(map(re.escape, field["enum"]))
            rules[name] = Text.of(pattern, 0, max(map(len, field["enum"])))
    return rules


_Part = _struct(EnginePart)
_Data = _struct(RequestFinishedData, parts=tuple[_Part, ...])  # type: ignore[valid-type]
_Event = _struct(RequestFinished, data=_Data)
_ENVELOPE_FIELDS = tuple(RequestFinished.model_fields)
_DATA_FIELDS = tuple(RequestFinishedData.model_fields)
_PART_FIELDS = tuple(EnginePart.model_fields)
_ENVELOPE_RULES = _rules(RequestFinished)
_DATA_RULES = _rules(RequestFinishedData)
_PART_RULES = _rules(EnginePart)
_parse = msgspec.json.Decoder(_Event).decode
_astuple = msgspec.structs.astuple


def parse(value: bytes | None) -> msgspec.Struct | None:
    """The event in a record's value, not yet checked; None where the reference must judge."""
    if value is None or len(value) > VALUE_BYTES_MAX:
        return None
    try:
        return _parse(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def columns(events: Sequence[msgspec.Struct]) -> dict[str, pa.Array]:
    """Columns of `usage_events` except the content hash and the transport columns.

    Args:
        events: What `parse` returned, at least one.

    Raises:
        Unsure: If any of the events may break its contract; smaller groups tell which.
    """
    envelope = dict(zip(_ENVELOPE_FIELDS, zip(*map(_astuple, events), strict=True), strict=True))
    data = dict(zip(_DATA_FIELDS, zip(*map(_astuple, envelope["data"]), strict=True), strict=True))
    parts: Sequence[Sequence[msgspec.Struct]] = data.pop("parts")
    try:
        found = {
            "tenant": names(envelope["subject"], _ENVELOPE_RULES["subject"]),
            "event_id": uuids(envelope["id"], version_7=True),
            "source": repeated_uuids(envelope["source"]),
            "sequence": integers(envelope["sequence"], _ENVELOPE_RULES["sequence"]),
            **{name: _column(name, values) for name, values in data.items()},
        }
        found["event_time"] = uuid7_times(found["event_id"])
        part_columns, offsets = _parts(parts)
        _obey_laws(found, envelope["time"], part_columns["gpu_ns"], offsets)
    except (pa.ArrowInvalid, UnicodeEncodeError) as error:
        raise Unsure from error
    if "refused" in found["outcome"].dictionary.to_pylist():
        _refused_reached_no_engine(data["outcome"], parts)
    listed = {
        _PART_PREFIX + name: pa.ListArray.from_arrays(offsets, column)
        for name, column in part_columns.items()
    }
    return {name: _as_stored(name, column) for name, column in (found | listed).items()}


def _as_stored(name: str, column: pa.Array) -> pa.Array:
    stored = _SCHEMA.field(name).type
    return column if column.type == stored else column.cast(stored)


def _column(name: str, values: Sequence[Any]) -> pa.Array:
    kind = _CLICKHOUSE_TYPES[name]
    if kind.startswith("DateTime64"):
        return instants(values)
    rule = _DATA_RULES[name]
    if isinstance(rule, Whole):
        return integers(values, rule)
    return names(values, rule) if kind.startswith("LowCardinality") else texts(values, rule)


def _parts(parts: Sequence[Sequence[msgspec.Struct]]) -> tuple[dict[str, pa.Array], pa.Array]:
    """Columns over all parts of all events, and where each event's parts begin and end."""
    counts = list(map(len, parts))
    if max(counts) > MAX_PARTS:
        raise Unsure
    offsets = pa.array(accumulate(counts, initial=0), pa.int32())
    rows = list(map(_astuple, chain.from_iterable(parts)))
    turned = zip(*rows, strict=True) if rows else [()] * len(_PART_FIELDS)
    found = {}
    for name, values in zip(_PART_FIELDS, turned, strict=True):
        rule = _PART_RULES[name]
        found[name] = integers(values, rule) if isinstance(rule, Whole) else repeated_uuids(values)
    explained = pc.add_checked(
        pc.max_element_wise(pc.subtract(found["generated_tokens"], 1), 0),
        pc.add_checked(found["drafts_rejected_tokens"], found["discarded_tokens"]),
    )
    _demand(pc.equal(found["decode_scheduled_tokens"], explained))
    return found, offsets


def _obey_laws(
    found: dict[str, pa.Array], times: Sequence[str], part_gpu_ns: pa.Array, offsets: pa.Array
) -> None:
    """What the validators of the envelope and of the request's totals ask."""
    _demand(pc.equal(found["event_time"], instants(times)))
    running = pa.concat_arrays(
        [pa.array([0], pa.int64()), pc.cumulative_sum_checked(part_gpu_ns)]
    ).take(offsets)
    _demand(pc.equal(found["gpu_ns"], pc.subtract(running[1:], running[:-1])))
    _demand(pc.less_equal(found["gpu_prefill_ns"], found["gpu_ns"]))
    _demand(pc.less_equal(found["gpu_recompute_ns"], found["gpu_ns"]))
    visible = pc.add_checked(found["output_text_tokens"], found["output_reasoning_tokens"])
    said = pc.add_checked(visible, found["hidden_tokens"])
    _demand(pc.less_equal(said, found["generated_tokens"]))
    _demand(pc.less_equal(found["delivered_tokens"], visible))


def _refused_reached_no_engine(
    outcomes: Sequence[str], parts: Sequence[Sequence[msgspec.Struct]]
) -> None:
    if any(outcome == "refused" and some for outcome, some in zip(outcomes, parts, strict=True)):
        raise Unsure


def _demand(holds: pa.Array) -> None:
    if len(holds) and not pc.all(holds).as_py():
        raise Unsure
