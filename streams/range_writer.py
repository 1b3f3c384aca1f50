"""Writes one promised range: dead letters, then each table's rows, again and again until taken."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter_ns

import pyarrow as pa

from infra.metrics import Histogram
from schemas.tables import Table
from streams.clickhouse_sink import (
    ClickHouseSink,
    RefusedRow,
    insert_token,
    insert_what_is_taken,
)
from streams.columns import gather
from streams.dead_letters import as_records
from streams.decode import Refused
from streams.patience import Result, patiently
from streams.settings import StreamSettings
from streams.sink_needs import Group, Hook, Outbox, Place
from streams.telemetry import IngestCounters

INSERT_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class RangeWriter:
    """What the sink does to servers; each of it is repeated until it is done."""

    def __init__(
        self,
        group: Group,
        ledger: ClickHouseSink,
        dead_letters: Outbox,
        settings: StreamSettings,
        hook: Hook,
    ) -> None:
        self.counters = IngestCounters()
        self.insert_times = Histogram(INSERT_BOUNDS_S)
        self._group = group
        self._ledger = ledger
        self._dead_letters = dead_letters
        self._hook = hook
        self._retry_s = (
            settings.ingest_retry_first_ms / 1_000,
            settings.ingest_retry_last_ms / 1_000,
        )
        self._inserter = ThreadPoolExecutor(settings.ingest_parallel_inserts, "insert")

    async def _insert_tables(
        self, place: Place, tables: Mapping[Table, list[pa.Table]], bounds: tuple[int, int]
    ) -> int:
        rows = 0
        for table, parts in tables.items():
            self._hook("before-insert")
            rows += sum(map(len, parts))
            await self._insert(place, table, parts, bounds)
            self._hook("after-insert")
        return rows

    async def _insert(
        self, place: Place, table: Table, parts: list[pa.Table], bounds: tuple[int, int]
    ) -> None:
        """Insert until it is done; what the server refuses for its content is dead-lettered."""

        def insert_all() -> list[RefusedRow]:
            # One table instead of its parts, and no longer both; a repeated attempt finds the one.
            parts[:] = [gather(parts)]
            return insert_what_is_taken(insert, parts[0])

        def insert(some: pa.Table) -> None:
            token = insert_token(*place, *bounds, some)
            self._ledger.insert(table, some, token)
            self.counters.inserts += 1

        async def attempt() -> list[RefusedRow]:
            return await asyncio.get_running_loop().run_in_executor(self._inserter, insert_all)

        started_ns = perf_counter_ns()
        rejected = await self._patiently(attempt, "inserting", place)
        taken_ns = perf_counter_ns() - started_ns
        self.counters.insert_ns += taken_ns
        self.insert_times.observe_ns(taken_ns)
        if rejected:
            await self._send_dead_letters(
                place, [await self._read_again(place, row) for row in rejected]
            )

    async def _read_again(self, place: Place, row: RefusedRow) -> Refused:
        value = await self._patiently(
            partial(self._group.reread, *place, row.offset), "reading a record again", place
        )
        return Refused(row.offset, value, "ledger.refused", row.detail)

    async def _send_dead_letters(self, place: Place, refused: Sequence[Refused]) -> None:
        if not refused:
            return
        letters = as_records(*place, refused)
        self._hook("before-dead-letters")
        await self._patiently(
            partial(self._dead_letters.send, letters), "sending dead letters", place
        )
        self._hook("after-dead-letters")
        self.counters.refused_records += len(refused)

    async def _commit(self, place: Place, offset: int, metadata: str) -> None:
        await self._patiently(
            partial(self._group.commit, *place, offset, metadata), "committing", place
        )
        self.counters.commits += 1

    async def _patiently(
        self, attempt: Callable[[], Awaitable[Result]], what: str, place: Place
    ) -> Result:
        return await patiently(
            attempt, f"{what} of {place[0]}/{place[1]}", self._retry_s, self._count_retry
        )

    def _count_retry(self) -> None:
        self.counters.retries += 1
