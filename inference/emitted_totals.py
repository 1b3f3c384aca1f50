"""What a host's source has emitted so far, kept by the sidecar with the events themselves.

Counted from the records before they are numbered, composed and published, and written in the same
transaction: a figure to hold against what arrives at the other end.
"""

import sqlite3
from collections.abc import Iterable
from pathlib import Path

import msgspec

from inference.outbox_file import OUTBOX_FILE, open_outbox_file
from inference.wire import Record
from schemas.usage import TOKEN_METERS

_SCHEMA = """
CREATE TABLE IF NOT EXISTS emitted (
    meter TEXT PRIMARY KEY, total INTEGER NOT NULL);
"""
_REQUESTS, _GPU = "requests", "gpu_ns"
_FINISHED = "request.finished"


class EmittedTotals(msgspec.Struct):
    """Finished requests, tokens by meter and GPU time of one source."""

    requests: int = 0
    gpu_ns: int = 0
    tokens: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(TOKEN_METERS, 0))


class _Used(msgspec.Struct):
    """Of a finished request, what is counted."""

    input_uncached_tokens: int
    input_cache_read_tokens: int
    input_cache_write_tokens: int
    output_text_tokens: int
    output_reasoning_tokens: int
    gpu_ns: int


def add_emitted(connection: sqlite3.Connection, records: Iterable[Record]) -> None:
    """Count finished requests; call it inside the transaction that makes events of them."""
    sums: dict[str, int] = {}
    for record in records:
        if record.kind != _FINISHED:
            continue
        used = _decode(record.data)
        sums[_REQUESTS] = sums.get(_REQUESTS, 0) + 1
        for meter in (*TOKEN_METERS, _GPU):
            sums[meter] = sums.get(meter, 0) + getattr(used, meter)
    connection.executemany(
        "INSERT INTO emitted VALUES (?, ?) ON CONFLICT (meter) DO UPDATE SET"
        " total = total + excluded.total",
        list(sums.items()),
    )


def prepare(connection: sqlite3.Connection) -> None:
    """Make the table, where it is not there."""
    connection.executescript(_SCHEMA)


def emitted_totals(outbox: Path) -> EmittedTotals:
    """What the source of an outbox folder has emitted.

    Raises:
        SpoolError: If there is no outbox in the folder.
    """
    connection = open_outbox_file(outbox / OUTBOX_FILE, create=False)
    try:
        prepare(connection)
        sums = dict(connection.execute("SELECT meter, total FROM emitted"))
    finally:
        connection.close()
    return EmittedTotals(
        requests=sums.get(_REQUESTS, 0),
        gpu_ns=sums.get(_GPU, 0),
        tokens={meter: sums.get(meter, 0) for meter in TOKEN_METERS},
    )


_decode = msgspec.json.Decoder(_Used).decode
