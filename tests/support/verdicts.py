"""Holds the decoder of the hot path to the reference: the same verdict, the same row."""

import json
from typing import Any

from schemas.decode import decode_event
from schemas.errors import MalformedEventError
from schemas.generate import CONTRACTS
from schemas.ids import content_hash
from schemas.topics import EVENTS, TOPIC_OF_TYPE, USAGE
from streams.columns import table_of_rows
from streams.decode import decode
from streams.rows import row_of
from tests.support.examples import VALID, contract_name, example_files

EVENT_EXAMPLES = [
    path.stem for path in example_files(VALID) if CONTRACTS[contract_name(path)] in EVENTS
]
REQUEST_EXAMPLES = [name for name in EVENT_EXAMPLES if name.startswith("request.finished")]
PARTITION = 3


def compact(event: Any) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode("utf-8", "surrogatepass")


def places_in(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a JSON document."""
    if isinstance(node, dict):
        items: Any = node.items()
    elif isinstance(node, list):
        items = enumerate(node)
    else:
        return [path]
    return [path, *(place for key, value in items for place in places_in(value, (*path, key)))]


def at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def expected(value: bytes, topic: str, offset: int) -> dict[str, Any] | None:
    """The row that the reference makes of a record, None where it refuses."""
    try:
        event = decode_event(value)
    except MalformedEventError:
        return None
    if TOPIC_OF_TYPE[event.type].name != topic:
        return None
    _, row = row_of(event)
    return row | {
        "content_hash": content_hash(value),
        "topic": topic,
        "kafka_partition": PARTITION,
        "kafka_offset": offset,
    }


def assert_same_verdict(values: list[bytes], topic: str = USAGE.name) -> None:
    offsets = [10 + 3 * place for place in range(len(values))]
    decoded = decode(topic, PARTITION, offsets, values)
    refused = {one.offset: one for one in decoded.refused}
    rows = {
        row["kafka_offset"]: row for table in decoded.tables.values() for row in table.to_pylist()
    }
    assert len(rows) + len(refused) == len(values) == decoded.rows + len(refused)
    for offset, value in zip(offsets, values, strict=True):
        row = expected(value, topic, offset)
        if row is None:
            assert refused[offset].value == value
            assert refused[offset].reason
        else:
            (table,) = (table for table in decoded.tables if offset in _offsets(decoded, table))
            (plain,) = table_of_rows(table, [row]).to_pylist()
            assert rows[offset] == plain


def _offsets(decoded: Any, table: Any) -> list[int]:
    offsets: list[int] = decoded.tables[table].column("kafka_offset").to_pylist()
    return offsets
