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
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter_ns

from streams.clickhouse_sink import ClickHouseSink
from streams.decode import Decoded, by_table, decode
from streams.group import FencedError
from streams.partition import Limits, Partition, Piece, Run, promise, promised_end
from streams.patience import NotNowError
from streams.range_writer import RangeWriter
from streams.record_batch import RecordBatch
from streams.settings import StreamSettings
from streams.sink_needs import Decoder, Group, Hook, Outbox, Place, no_hook

log = logging.getLogger("rentroll.ingest")


class Sink(RangeWriter):
    """All partitions that this worker owns."""

    def __init__(
        self,
        group: Group,
        ledger: ClickHouseSink,
        dead_letters: Outbox,
        settings: StreamSettings,
        hook: Hook = no_hook,
        decoder: Decoder = decode,
    ) -> None:
        super().__init__(group, ledger, dead_letters, settings, hook)
        self.failure: BaseException | None = None
        self._decode_run = decoder
        self._limits = Limits(
            settings.ingest_rows,
            settings.ingest_bytes,
            settings.ingest_quiet_ms / 1_000,
            settings.ingest_wait_ms / 1_000,
        )
        self._grace_s = settings.ingest_grace_s
        self._owned: dict[Place, Partition[Decoded]] = {}
        self._writing: dict[Place, asyncio.Task[None]] = {}
        self._settling: set[Place] = set()
        self._handing_over = False
        self._giving_up = asyncio.Lock()
        self._overtaken: dict[Place, int] = {}
        self._opening = asyncio.Lock()
        self._moved = asyncio.Condition()
        self._decoder = ThreadPoolExecutor(settings.ingest_decode_threads, "decode")

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
            partition.add(piece, _now_s())
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
        # One at a time: the end of another would let writes begin that this one then forgets,
        # and whoever opened their partition anew would write it a second time beside them.
        async with self._giving_up:
            self._handing_over = True
            try:
                await self._finish_writing()
                await self._settle_within_the_grace()
                await self._forget()
            finally:
                self._handing_over = False

    async def _settle_within_the_grace(self) -> None:
        try:
            async with asyncio.timeout(self._grace_s):
                await self.settle()
        except TimeoutError:
            # As in `_settle`: the next owner keeps the last promises again.
            log.warning("gave up waiting for commits", extra={"grace_s": self._grace_s})

    async def close(self) -> None:
        """Write everything that waits, within the grace, and commit it; then let go."""
        for place, partition in self._owned.items():
            self._write_if_ready(place, partition, now_s=float("inf"))
        await self._finish_writing()
        await self.give_up()
        self._decoder.shutdown(wait=False)
        self._inserter.shutdown(wait=False)

    async def _read_state(self, place: Place) -> Partition[Decoded]:
        ask = partial(self._group.committed, *place)
        found = await self._patiently(ask, "reading a commit", place)
        start = await self._log_start(place)
        if found is None:
            if start:
                log.warning("begins where the log does", extra=_gap(place, 0, start))
            return Partition(written=start, promised=None, confirmed=start)
        offset, metadata = found
        end = promised_end(metadata, offset)
        if end is not None:
            self.counters.replayed_ranges += 1
            log.info("keeping a promise", extra={"place": place, "start": offset, "end": end})
        partition: Partition[Decoded] = Partition(written=offset, promised=end, confirmed=offset)
        if start > offset:
            # Said now: where everything expired, no fetch comes that would show the gap.
            self._pass_over(place, partition, start)
        return partition

    async def _log_start(self, place: Place) -> int:
        ask = partial(self._group.log_start, *place)
        return await self._patiently(ask, "asking for the log's start", place)

    async def watch_retention(self, place: Place) -> None:
        """Say it where the log begins behind what is to be read next, though nothing is fetched.

        Call it in the partition's turn. What was fetched before and waits for its turn behind
        this call must not be passed over: so it has to be found twice in the same state.
        """
        partition = await self.open(place)
        if partition is None:
            return
        start, expected = await self._log_start(place), partition.expected
        if self._owned.get(place) is not partition or place in self._writing:
            return
        overtaken = start > expected == partition.written
        if overtaken and self._overtaken.get(place) == expected:
            self._pass_over(place, partition, start)
        self._overtaken[place] = expected if overtaken else -1

    def _pass_over(self, place: Place, partition: Partition[Decoded], start: int) -> None:
        self.counters.lost_offsets += start - partition.expected
        what = "retention passed records that were never read"
        log.error(what, extra=_gap(place, partition.expected, start))
        partition.skip_to(start)

    async def _skip(self, place: Place, partition: Partition[Decoded], batch: RecordBatch) -> bool:
        """Whether what is missing before the batch is gone from the log for good.

        If it is not, the batch came out of turn (a fetch that outlived a rebalance): it is
        dropped, and fetched again from where it should have started.
        """
        start = await self._log_start(place)
        if start > partition.expected == partition.written:
            self._pass_over(place, partition, min(start, batch.start))
        if batch.start > partition.expected:
            await self._group.go_back(*place, partition.expected)
        return batch.start <= partition.expected

    async def _wait_for_room(self, place: Place, partition: Partition[Decoded]) -> None:
        async with self._moved:
            await self._moved.wait_for(
                lambda: self._owned.get(place) is not partition or not partition.full(self._limits)
            )

    async def _decode(self, place: Place, run: Run) -> Piece[Decoded]:
        started_ns = perf_counter_ns()
        decoded = await asyncio.get_running_loop().run_in_executor(
            self._decoder, self._decode_run, *place, run.offsets, run.values
        )
        self.counters.decode_ns += perf_counter_ns() - started_ns
        size = sum(table.nbytes for table in decoded.tables.values())
        return Piece(run.start, run.end, len(run.offsets), size, decoded)

    def _is_idle(self, place: Place, partition: Partition[Decoded]) -> bool:
        return place not in self._writing and partition.promised is None

    def _write_if_ready(
        self, place: Place, partition: Partition[Decoded], now_s: float | None = None
    ) -> None:
        now_s = _now_s() if now_s is None else now_s
        busy = place in self._writing or place in self._settling or self._handing_over
        if busy or not partition.ready(self._limits, now_s):
            return
        self._writing[place] = asyncio.ensure_future(self._write(place, partition))

    async def _write(self, place: Place, partition: Partition[Decoded]) -> None:
        """Write ranges while there are any that are ready."""
        try:
            await self._write_range(place, partition)
            while partition.ready(self._limits, _now_s()) and not self._handing_over:
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
        pieces = partition.take(self._limits, _now_s())
        await self._wake()
        bounds = partition.written, pieces[-1].end
        await self._promise(place, partition, bounds)
        refused = [one for piece in pieces for one in piece.content.refused]
        records = sum(piece.rows for piece in pieces)
        tables = by_table(piece.content for piece in pieces)
        # An insert takes long; the pieces, once gathered, must not lie about for as long.
        pieces.clear()
        await self._send_dead_letters(place, refused)
        rows = await self._insert_tables(place, tables, bounds)
        partition.range_written()
        self.counters.ranges += 1
        self.counters.rows += rows
        self.counters.records += records

    async def _promise(
        self, place: Place, partition: Partition[Decoded], bounds: tuple[int, int]
    ) -> None:
        if partition.promised is None:
            self._hook("before-promise")
            await self._commit(place, bounds[0], promise(bounds[1]))
            partition.promise_made(bounds[1])
            self._hook("after-promise")

    async def _settle(self, place: Place, partition: Partition[Decoded]) -> None:
        if partition.confirmed == partition.written:
            return
        written = partition.written
        # A promise must not be made meanwhile: this commit, if it came second, would wipe it out.
        self._settling.add(place)
        try:
            self._hook("before-settle")
            await self._group.commit(*place, written, "")
            self._hook("after-settle")
        except (FencedError, NotNowError) as error:
            # Nothing is lost: the next owner keeps the last promise again.
            log.info("not settled", extra={"place": place, "why": str(error)})
            return
        finally:
            self._settling.discard(place)
        self.counters.commits += 1
        partition.settled_up_to_written()

    def _fail(self, error: Exception) -> None:
        self.failure = self.failure or error
        log.error("ingest stops", exc_info=error)

    async def _finish_writing(self) -> None:
        writing = dict(self._writing)
        if not writing:
            return
        _, late = await asyncio.wait(writing.values(), timeout=self._grace_s)
        for place, task in writing.items():
            if task in late:
                # It had taken what it wrote, and its promise may have been made: from here on
                # nobody here knows this partition's state.
                self._owned.pop(place, None)
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


def _gap(place: Place, first: int, log_start: int) -> dict[str, object]:
    return {"place": place, "first": first, "log_start": log_start}


def _now_s() -> float:
    return asyncio.get_running_loop().time()
