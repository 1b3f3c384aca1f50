"""Writes every partition's records into the ledger exactly once: promise, write, confirm.

Per partition, one range `[start, end)` after the other: commit `start` with the promise of
`end`, fenced by the group's generation; send refused records to `dlq.v1` and wait for the
broker's yes; insert each table's rows under one token, again and again until it is taken; the
next promise confirms it. The same promise, found by a restart or a new owner, is kept first.

Decoding runs beside inserts, in threads of its own. Nothing here knows Faust: whoever brings
record batches and a group can drive it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic, perf_counter_ns

import pyarrow as pa

from infra.metrics import Histogram
from schemas.tables import Table
from schemas.topics import dead_letter_key
from streams.clickhouse_sink import (
    ClickHouseSink,
    RefusedRow,
    insert_token,
    insert_what_is_taken,
)
from streams.columns import gather
from streams.dead_letters import dead_letter
from streams.decode import Decoded, Refused, decode
from streams.group import FencedError
from streams.partition import Limits, Partition, Piece, Run, promise, promised_end
from streams.patience import NotNowError, Result, patiently
from streams.record_batch import RecordBatch
from streams.settings import StreamSettings
from streams.sink_needs import Group, Hook, Outbox, Place, no_hook
from streams.telemetry import IngestCounters

log = logging.getLogger("rentroll.ingest")

INSERT_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Sink:
    """All partitions that this worker owns."""

    def __init__(
        self,
        group: Group,
        ledger: ClickHouseSink,
        dead_letters: Outbox,
        settings: StreamSettings,
        hook: Hook = no_hook,
    ) -> None:
        self.counters = IngestCounters()
        self.failure: BaseException | None = None
        self.insert_times = Histogram(INSERT_BOUNDS_S)
        self._group = group
        self._ledger = ledger
        self._dead_letters = dead_letters
        self._hook = hook
        self._limits = Limits(
            settings.ingest_rows,
            settings.ingest_bytes,
            settings.ingest_quiet_ms / 1_000,
            settings.ingest_wait_ms / 1_000,
        )
        self._grace_s = settings.ingest_grace_s
        self._retry_s = (
            settings.ingest_retry_first_ms / 1_000,
            settings.ingest_retry_last_ms / 1_000,
        )
        self._owned: dict[Place, Partition[Decoded]] = {}
        self._writing: dict[Place, asyncio.Task[None]] = {}
        self._opening = asyncio.Lock()
        self._moved = asyncio.Condition()
        self._decoder = ThreadPoolExecutor(settings.ingest_decode_threads, "decode")
        self._inserter = ThreadPoolExecutor(settings.ingest_parallel_inserts, "insert")

    async def take(self, batch: RecordBatch, generation: int) -> None:
        """Accept a record batch; returns late while its partition has more than enough waiting.

        Args:
            batch: What one fetch brought.
            generation: Of the group when it was fetched; a batch of an older one is dropped,
                for its records come again.
        """
        try:
            await self._take(batch, generation)
        except Exception as error:
            # An agent that only crashed would be started again by Faust, and go on behind a hole.
            self._fail(error)
            raise

    async def _take(self, batch: RecordBatch, generation: int) -> None:
        place = (batch.topic, batch.partition)
        partition = await self.open(place)
        if partition is None or generation != self._group.generation:
            return
        if batch.start > partition.expected and not await self._skip(place, partition, batch):
            return
        partition.log_end = batch.log_end
        fetched = Run(batch.start, batch.end, batch.offsets, batch.values)
        for run in partition.admit(fetched):
            piece = await self._decode(place, run)
            if self._owned.get(place) is not partition:
                return
            partition.add(piece, monotonic())
            self._write_if_ready(place, partition)
            await self._wait_for_room(place, partition)

    async def open(self, place: Place) -> Partition[Decoded] | None:
        """The state of a partition, read from the group at first; None if it was lost meanwhile."""
        async with self._opening:
            partition = self._owned.get(place)
            if partition is not None:
                return partition
            generation = self._group.generation
            partition = await self._read_state(place)
            if generation != self._group.generation or not self._group.settled:
                return None
            self._owned[place] = partition
            return partition

    def tick(self) -> None:
        """Start writing what has waited long enough; call it from a timer."""
        for place, partition in self._owned.items():
            self._write_if_ready(place, partition)

    async def settle(self) -> None:
        """Commit, without a promise, what was written by partitions that have nothing to do."""
        for place, partition in list(self._owned.items()):
            if self._is_idle(place, partition) and not partition.settled:
                await self._settle(place, partition)

    def left(self, place: Place, log_end: int) -> int:
        """Offsets of a partition that are not written yet; at least 1 while it is not settled."""
        partition = self._owned.get(place)
        if partition is None:
            return 1
        return max(log_end - partition.written, 0 if partition.settled else 1)

    def positions(self) -> dict[Place, int]:
        """Per partition that is open, the offset up to which the ledger has everything."""
        return {place: partition.written for place, partition in list(self._owned.items())}

    async def give_up(self) -> None:
        """Hand all partitions over: finish what is being written, start nothing new."""
        self.counters.rebalances += 1
        await self._finish_writing()
        try:
            async with asyncio.timeout(self._grace_s):
                for place, partition in list(self._owned.items()):
                    if self._is_idle(place, partition):
                        await self._settle(place, partition)
        except TimeoutError:
            # As in `_settle`: the next owner keeps the last promises again.
            log.warning("gave up waiting for commits", extra={"grace_s": self._grace_s})
        await self._forget()

    async def close(self) -> None:
        """Write everything that waits, within the grace, and commit it; then let go."""
        for place, partition in self._owned.items():
            self._write_if_ready(place, partition, now_s=float("inf"))
        await self.give_up()
        self._decoder.shutdown(wait=False)
        self._inserter.shutdown(wait=False)

    async def _read_state(self, place: Place) -> Partition[Decoded]:
        found = await self._patiently(
            partial(self._group.committed, *place), "reading a commit", place
        )
        if found is None:
            start = await self._patiently(
                partial(self._group.log_start, *place), "asking for the log's start", place
            )
            return Partition(written=start, promised=None, confirmed=start)
        offset, metadata = found
        end = promised_end(metadata, offset)
        if end is not None:
            self.counters.replayed_ranges += 1
            log.info("keeping a promise", extra={"place": place, "start": offset, "end": end})
        return Partition(written=offset, promised=end, confirmed=offset)

    async def _skip(self, place: Place, partition: Partition[Decoded], batch: RecordBatch) -> bool:
        """Whether what is missing before the batch is gone from the log for good.

        If it is not, the batch came out of turn (a fetch that outlived a rebalance): it is
        dropped, and fetched again from where it should have started.
        """
        start = await self._patiently(
            partial(self._group.log_start, *place), "asking for the log's start", place
        )
        if start <= partition.expected or partition.expected != partition.written:
            await self._group.go_back(*place, partition.expected)
            return False
        self.counters.lost_offsets += start - partition.expected
        log.error(
            "retention passed records that were never read",
            extra={"place": place, "first": partition.expected, "log_start": start},
        )
        partition.skip_to(min(start, batch.start))
        return True

    async def _wait_for_room(self, place: Place, partition: Partition[Decoded]) -> None:
        async with self._moved:
            await self._moved.wait_for(
                lambda: self._owned.get(place) is not partition or not partition.full(self._limits)
            )

    async def _decode(self, place: Place, run: Run) -> Piece[Decoded]:
        started_ns = perf_counter_ns()
        decoded = await asyncio.get_running_loop().run_in_executor(
            self._decoder, decode, *place, run.offsets, run.values
        )
        self.counters.decode_ns += perf_counter_ns() - started_ns
        size = sum(table.nbytes for table in decoded.tables.values())
        return Piece(run.start, run.end, len(run.offsets), size, decoded)

    def _is_idle(self, place: Place, partition: Partition[Decoded]) -> bool:
        return place not in self._writing and partition.promised is None

    def _write_if_ready(
        self, place: Place, partition: Partition[Decoded], now_s: float | None = None
    ) -> None:
        now_s = monotonic() if now_s is None else now_s
        if place in self._writing or not partition.ready(self._limits, now_s):
            return
        self._writing[place] = asyncio.ensure_future(self._write(place, partition))

    async def _write(self, place: Place, partition: Partition[Decoded]) -> None:
        """Write ranges while there are any that are ready."""
        try:
            while partition.ready(self._limits, monotonic()):
                await self._write_range(place, partition)
        except FencedError as error:
            self.counters.fenced_partitions += 1
            self._owned.pop(place, None)
            log.warning("partition has another owner", extra={"place": place, "why": str(error)})
        except Exception as error:
            self._fail(error)
        finally:
            self._writing.pop(place, None)
            await self._wake()

    async def _write_range(self, place: Place, partition: Partition[Decoded]) -> None:
        pieces = partition.take(self._limits, monotonic())
        await self._wake()
        start, end = partition.written, pieces[-1].end
        if partition.promised is None:
            self._hook("before-promise")
            await self._commit(place, start, promise(end))
            partition.promise_made(end)
            self._hook("after-promise")
        refused = [one for piece in pieces for one in piece.content.refused]
        records, tables = sum(piece.rows for piece in pieces), _by_table(pieces)
        # An insert takes long; the pieces, once gathered, must not lie about for as long.
        pieces.clear()
        await self._send_dead_letters(place, refused)
        rows = 0
        for table, parts in tables.items():
            self._hook("before-insert")
            rows += sum(map(len, parts))
            await self._insert(place, table, parts, (start, end))
            self._hook("after-insert")
        partition.range_written()
        self.counters.ranges += 1
        self.counters.rows += rows
        self.counters.records += records

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
        letters = [
            (
                dead_letter_key(*place, one.offset),
                dead_letter(*place, one).model_dump_json().encode(),
            )
            for one in refused
        ]
        self._hook("before-dead-letters")
        await self._patiently(
            partial(self._dead_letters.send, letters), "sending dead letters", place
        )
        self.counters.refused_records += len(refused)

    async def _commit(self, place: Place, offset: int, metadata: str) -> None:
        await self._patiently(
            partial(self._group.commit, *place, offset, metadata), "committing", place
        )
        self.counters.commits += 1

    async def _settle(self, place: Place, partition: Partition[Decoded]) -> None:
        if partition.confirmed == partition.written:
            return
        written = partition.written
        try:
            self._hook("before-settle")
            await self._group.commit(*place, written, "")
            self._hook("after-settle")
        except (FencedError, NotNowError) as error:
            # Nothing is lost: the next owner keeps the last promise again.
            log.info("not settled", extra={"place": place, "why": str(error)})
            return
        self.counters.commits += 1
        if partition.promised is None and partition.written == written:
            partition.settled_up_to_written()

    async def _patiently(
        self, attempt: Callable[[], Awaitable[Result]], what: str, place: Place
    ) -> Result:
        return await patiently(
            attempt, f"{what} of {place[0]}/{place[1]}", self._retry_s, self._count_retry
        )

    def _count_retry(self) -> None:
        self.counters.retries += 1

    def _fail(self, error: Exception) -> None:
        self.failure = self.failure or error
        log.error("ingest stops", exc_info=error)

    async def _finish_writing(self) -> None:
        writing = list(self._writing.values())
        if not writing:
            return
        _, late = await asyncio.wait(writing, timeout=self._grace_s)
        for task in late:
            task.cancel()
        if late:
            log.warning("gave up waiting for inserts", extra={"partitions": len(late)})
            await asyncio.wait(late, timeout=1)

    async def _forget(self) -> None:
        self._owned.clear()
        await self._wake()

    async def _wake(self) -> None:
        async with self._moved:
            self._moved.notify_all()


def _by_table(pieces: Iterable[Piece[Decoded]]) -> dict[Table, list[pa.Table]]:
    found: dict[Table, list[pa.Table]] = {}
    for piece in pieces:
        for table, rows in piece.content.tables.items():
            found.setdefault(table, []).append(rows)
    return found
