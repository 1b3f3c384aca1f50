"""Loads records into a ledger with the worker's own decoder and rows, several batches at once.

Nothing is committed and no dead letter is sent: refused records lie on `dlq.v1` already, and are
replayed from there. A batch that is loaded twice collapses as it does in ingest.
"""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import pyarrow as pa

from schemas.errors import ServerError
from schemas.tables import Table
from streams.clickhouse_sink import ClickHouseSink, insert_token, insert_what_is_taken
from streams.decode import decode
from streams.patience import NotNowError
from streams.record_batch import RecordBatch

INSERT_ATTEMPTS = 8
_FIRST_WAIT_S = 0.2


@dataclass(slots=True)
class LoadCounters:
    """What one replay has loaded; refused records are dead letters and no rows of their own."""

    records: int = 0
    rows: int = 0
    refused_records: int = 0


Progress = Callable[[LoadCounters], None]


def load(
    batches: Iterable[RecordBatch],
    ledger: ClickHouseSink,
    threads: int,
    counters: LoadCounters,
    progress: Progress = lambda _: None,
) -> None:
    """Decode and insert every batch; memory holds one more than `threads`.

    Raises:
        ServerError: If ClickHouse does not take a batch in several attempts.
        IngestError: What reading raises.
    """
    running: set[Future[LoadCounters]] = set()
    with ThreadPoolExecutor(threads, "replay") as pool:
        try:
            for batch in batches:
                running.add(pool.submit(_load_one, batch, ledger))
                while len(running) > threads:
                    running = _settle(running, counters, progress)
            while running:
                running = _settle(running, counters, progress)
        finally:
            for one in running:
                one.cancel()


def _settle(
    running: set["Future[LoadCounters]"], counters: LoadCounters, progress: Progress
) -> set["Future[LoadCounters]"]:
    done, left = wait(running, return_when=FIRST_COMPLETED)
    for one in done:
        loaded = one.result()
        counters.records += loaded.records
        counters.rows += loaded.rows
        counters.refused_records += loaded.refused_records
    progress(counters)
    return left


def _load_one(batch: RecordBatch, ledger: ClickHouseSink) -> LoadCounters:
    decoded = decode(batch.topic, batch.partition, batch.offsets, batch.values)
    loaded = LoadCounters(len(batch.offsets), decoded.rows, len(decoded.refused))
    for table, rows in decoded.tables.items():
        rejected = _insert(ledger, batch, table, rows)
        loaded.rows -= rejected
        loaded.refused_records += rejected
    return loaded


def _insert(ledger: ClickHouseSink, batch: RecordBatch, table: Table, rows: pa.Table) -> int:
    """Insert what the server takes; returns how many rows it refuses for their content."""

    def insert(some: pa.Table) -> None:
        token = insert_token(batch.topic, batch.partition, batch.start, batch.end, some)
        wait_s = _FIRST_WAIT_S
        for attempt in range(1, INSERT_ATTEMPTS + 1):
            try:
                ledger.insert(table, some, token)
            except NotNowError as error:
                if attempt == INSERT_ATTEMPTS:
                    raise ServerError(
                        f"ClickHouse takes no rows of {table.name}: {error}"
                    ) from error
                time.sleep(wait_s)
                wait_s *= 2
            else:
                return

    return len(insert_what_is_taken(insert, rows))
