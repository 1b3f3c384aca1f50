"""Faults that somebody could write into the sink; the simulation has to find every one of them."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import Table
from streams.decode import Decoded, Refused
from streams.partition import Partition, promise, promised_end
from streams.patience import NotNowError
from streams.record_batch import RecordBatch
from streams.sink import Sink
from tests.simulation.life import Build, Life, SimulatedGroup, SimulatedOutbox
from tests.simulation.world import Ledger, Place

Bounds = tuple[int, int]


class CommitsBeforeItInserts(Sink):
    async def _promise(self, place: Place, partition: Partition[Decoded], bounds: Bounds) -> None:
        if partition.promised is None:
            await self._commit(place, bounds[1], "")
            partition.promise_made(bounds[1])


class PromisesAfterItInserted(Sink):
    async def _promise(self, place: Place, partition: Partition[Decoded], bounds: Bounds) -> None:
        if partition.promised is None:
            partition.promise_made(bounds[1])

    async def _insert_tables(
        self, place: Place, tables: Mapping[Table, list[pa.Table]], bounds: Bounds
    ) -> int:
        rows = await super()._insert_tables(place, tables, bounds)
        await self._commit(place, bounds[0], promise(bounds[1]))
        return rows


class SkipsThePendingRange(Sink):
    async def _read_state(self, place: Place) -> Partition[Decoded]:
        found = await super()._read_state(place)
        written = found.promised or found.written
        return Partition(written=written, promised=None, confirmed=written)


class IgnoresMetadata(Sink):
    async def _read_state(self, place: Place) -> Partition[Decoded]:
        found = await super()._read_state(place)
        found.promised = None
        return found


class PromisesAWrongEnd(Sink):
    async def _commit(self, place: Place, offset: int, metadata: str) -> None:
        end = promised_end(metadata, offset)
        if end is not None and end - 1 > offset:
            metadata = promise(end - 1)
        await super()._commit(place, offset, metadata)


class SettlesWhatWaits(Sink):
    async def _settle(self, place: Place, partition: Partition[Decoded]) -> None:
        if partition.confirmed != partition.expected:
            partition.written = partition.expected
            await super()._settle(place, partition)


class TakesAnyGapForRetention(Sink):
    async def _skip(self, place: Place, partition: Partition[Decoded], batch: RecordBatch) -> bool:
        if partition.expected != partition.written:
            return await super()._skip(place, partition, batch)
        partition.skip_to(batch.start)
        return True


class SaysNothingOfRetention(Sink):
    def _pass_over(self, place: Place, partition: Partition[Decoded], start: int) -> None:
        partition.skip_to(start)


class SendsDeadLettersAfterTheNextCommit(Sink):
    _later: dict[Place, list[Refused]]

    async def _send_dead_letters(self, place: Place, refused: Sequence[Refused]) -> None:
        self.__dict__.setdefault("_later", {}).setdefault(place, []).extend(refused)

    async def _commit(self, place: Place, offset: int, metadata: str) -> None:
        late = self.__dict__.setdefault("_later", {}).pop(place, [])
        await super()._commit(place, offset, metadata)
        await super()._send_dead_letters(place, late)


class WakesNobody(Sink):
    async def _wake(self) -> None:
        pass


class _LedgerInBetween:
    """Stands before the model of the ledger."""

    def __init__(self, ledger: Ledger, life: Life) -> None:
        self._ledger, self._life = ledger, life

    def insert(self, table: Table, rows: pa.Table, token: str) -> None:
        self._ledger.insert(table, rows, token)


class TokenWithoutRange(_LedgerInBetween):
    def insert(self, table: Table, rows: pa.Table, token: str) -> None:
        super().insert(table, rows, token.rsplit("/", 2)[0])


class TokenOfTheWorker(_LedgerInBetween):
    """A late insert of a fenced owner is then another one than its heir's."""

    def insert(self, table: Table, rows: pa.Table, token: str) -> None:
        super().insert(table, rows, f"{token}/{self._life.number}")


class ClaimsBeforeItWrites(_LedgerInBetween):
    """Deduplicates by a key that it stores before the write."""

    def insert(self, table: Table, rows: pa.Table, token: str) -> None:
        claimed = vars(self._ledger).setdefault("claimed", set())
        if (table.name, token) not in claimed:
            claimed.add((table.name, token))
            super().insert(table, rows, token)


class OneTableIsEnough(_LedgerInBetween):
    """Takes a range for written when one of its tables is."""

    def insert(self, table: Table, rows: pa.Table, token: str) -> None:
        claimed = vars(self._ledger).setdefault("ranges", {})
        bounds = token.rsplit("/", 1)[0]
        if claimed.get(bounds, table.name) == table.name:
            super().insert(table, rows, token)
            claimed[bounds] = table.name


class RetriesWithOtherBoundaries(_LedgerInBetween):
    """Sends halves where the whole did not go through."""

    def insert(self, table: Table, rows: pa.Table, token: str) -> None:
        tried = vars(self).setdefault("tried", set())
        if token not in tried or len(rows) < 2:
            tried.add(token)
            super().insert(table, rows, token)
            return
        middle = len(rows) // 2
        super().insert(table, rows.slice(0, middle), f"{token}/first")
        super().insert(table, rows.slice(middle), f"{token}/second")


class GivesUpAnInsert(_LedgerInBetween):
    """Goes on after the third attempt."""

    def insert(self, table: Table, rows: pa.Table, token: str) -> None:
        attempts: Counter[str] = vars(self).setdefault("attempts", Counter())
        attempts[token] += 1
        if attempts[token] <= 3:
            super().insert(table, rows, token)


class LeavesOutWhatIsRefused(_LedgerInBetween):
    def insert(self, table: Table, rows: pa.Table, token: str) -> None:
        kept = rows.filter(pc.invert(rows.column("refusable")))
        super().insert(table, kept, token)


class CommitsInAnyGeneration(SimulatedGroup):
    def __init__(self, group: SimulatedGroup) -> None:
        super().__init__(group._life)

    async def commit(self, topic: str, partition: int, offset: int, metadata: str) -> None:
        await self._broker._asked(
            lambda: self._broker.committed.update({(topic, partition): (offset, metadata)})
        )


class DoesNotWaitForDeadLetters(SimulatedOutbox):
    def __init__(self, outbox: SimulatedOutbox) -> None:
        self._broker = outbox._broker

    async def send(self, records: Sequence[tuple[str, bytes]]) -> None:
        async def send_once() -> None:
            try:
                await self._broker.take_dead_letters(records)
            except NotNowError:
                return

        asyncio.get_running_loop().create_task(send_once())


@dataclass(frozen=True, slots=True)
class Planted:
    """A fault, and the word of the finding that it leads to."""

    build: Build
    word: str

    @property
    def name(self) -> str:
        parts: tuple[Any, ...] = (
            self.build.ledger,
            self.build.group,
            self.build.outbox,
            self.build.sink,
        )
        return str(next(part for part in parts if part).__name__)


PLANTED = (
    Planted(Build(CommitsBeforeItInserts), "lost"),
    Planted(Build(PromisesAfterItInserted), "doubled"),
    Planted(Build(SkipsThePendingRange), "lost"),
    Planted(Build(IgnoresMetadata), "doubled"),
    Planted(Build(PromisesAWrongEnd), "doubled"),
    Planted(Build(SettlesWhatWaits), "lost"),
    Planted(Build(TakesAnyGapForRetention), "lost"),
    Planted(Build(SaysNothingOfRetention), "lost"),
    Planted(Build(SendsDeadLettersAfterTheNextCommit), "lost"),
    Planted(Build(WakesNobody), "stuck"),
    Planted(Build(ledger=TokenWithoutRange), "lost"),
    Planted(Build(ledger=TokenOfTheWorker), "doubled"),
    Planted(Build(ledger=ClaimsBeforeItWrites), "lost"),
    Planted(Build(ledger=OneTableIsEnough), "lost"),
    Planted(Build(ledger=RetriesWithOtherBoundaries), "doubled"),
    Planted(Build(ledger=GivesUpAnInsert), "lost"),
    Planted(Build(ledger=LeavesOutWhatIsRefused), "lost"),
    Planted(Build(group=CommitsInAnyGeneration), "doubled"),
    Planted(Build(outbox=DoesNotWaitForDeadLetters), "lost"),
)
