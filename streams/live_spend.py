"""Sums every partition that this worker owns, and commits all of them a few times a second.

The billing store says how far the log is summed, and nobody else does: the offset moves in the
transaction that adds the sums. So whatever goes wrong, the answer is the same: forget, ask the
store, read again from there.
"""

import asyncio
import logging
from bisect import bisect_left
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from time import monotonic

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from infra.store.live_spend import Stretch, add_stretches, offset_of
from schemas.errors import OffsetMovedError
from schemas.estimates import Estimator
from schemas.spend import PartialSums
from schemas.tables import USAGE_EVENTS
from streams.decode import decode
from streams.live_windows import RecentIds, fold
from streams.patience import NotNowError, Result, patiently
from streams.record_batch import RecordBatch
from streams.settings import StreamSettings
from streams.sink_needs import Group, Hook, Place, no_hook

log = logging.getLogger("rentroll.live")

_SEEK_AGAIN_S = 2.0
"""Batches that were fetched before a seek are on their way for so long."""


@dataclass(slots=True)
class LiveCounters:
    """Counts since this worker started; nothing is ever reset."""

    records: int = 0
    """Records in the sums, also those that add nothing."""
    requests: int = 0
    commits: int = 0
    moved_partitions: int = 0
    """Partitions of which somebody else has summed more."""
    retries: int = 0
    lost_offsets: int = 0
    """Offsets that retention passed unread."""
    corrected_hours: int = 0
    alerts: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass(slots=True)
class _Summing:
    """One partition: `[start, end)` is summed and not committed, `wanted` is fetched next."""

    start: int
    end: int
    wanted: int
    recent: RecentIds
    sums: PartialSums = field(default_factory=PartialSums)
    sought_s: float = float("-inf")
    log_end: int = 0

    def take(self, place: Place) -> Stretch:
        """What is to be committed; from now on it is somebody else's to add."""
        stretch = Stretch(*place, self.start, self.end, self.sums)
        self.start, self.sums = self.end, PartialSums()
        return stretch


class LiveSpend:
    """All partitions that this worker owns. Used by one event loop."""

    def __init__(
        self,
        group: Group,
        store: Engine,
        estimator: Callable[[], Estimator],
        settings: StreamSettings,
        hook: Hook = no_hook,
    ) -> None:
        self.counters = LiveCounters()
        self.failure: BaseException | None = None
        self._group = group
        self._store = store
        self._estimator = estimator
        self._lookback = settings.live_copies_within_records
        self._commit_s = settings.live_commit_ms / 1_000
        self._pending_max = settings.live_pending_records
        self._grace_s = settings.ingest_grace_s
        self._retry_s = (
            settings.ingest_retry_first_ms / 1_000,
            settings.ingest_retry_last_ms / 1_000,
        )
        self._hook = hook
        self._owned: dict[Place, _Summing] = {}
        self._committing: asyncio.Task[None] | None = None
        self._committed_s = monotonic()
        self._moved = asyncio.Condition()
        self._opening = asyncio.Lock()
        self._folder = ThreadPoolExecutor(1, "fold")
        self._committer = ThreadPoolExecutor(1, "commit")

    async def take(self, batch: RecordBatch, generation: int) -> None:
        """Sum a record batch; returns late while more than enough waits to be committed."""
        try:
            await self._take(batch, generation)
        except Exception as error:
            # An agent that only crashed would be started again by Faust, and go on behind a hole.
            self._fail(error)
            raise

    async def tick(self) -> None:
        """Begin a commit if one is due; call it from a timer."""
        due = monotonic() - self._committed_s >= self._commit_s
        if self._committing is None and due and self._waiting():
            self._committing = asyncio.ensure_future(self._commit())

    def left(self, place: Place, log_end: int) -> int:
        """Records of a partition that are not committed; at least 1 while nobody can tell."""
        state = self._owned.get(place)
        return (
            1 if state is None else max(log_end - state.start, 0) + (self._committing is not None)
        )

    async def open(self, place: Place) -> _Summing | None:
        """The state of a partition, asked of the store at first; None if it was lost meanwhile."""
        async with self._opening:
            state = self._owned.get(place)
            if state is not None:
                return state
            generation = self._group.generation
            state = await self._read_state(place)
            if generation != self._group.generation or not self._group.settled:
                return None
            self._owned[place] = state
            return state

    async def give_up(self) -> None:
        """Commit what is summed, within the grace, and let all partitions go."""
        try:
            async with asyncio.timeout(self._grace_s):
                if self._committing is not None:
                    await asyncio.shield(self._committing)
                if self._waiting():
                    await self._commit()
        except TimeoutError:
            # The next owner reads it again.
            log.warning("gave up waiting for a commit", extra={"grace_s": self._grace_s})
        self._owned.clear()
        await self._wake()

    async def close(self) -> None:
        """`give_up`, for good."""
        await self.give_up()
        self._folder.shutdown(wait=False)
        self._committer.shutdown(wait=False)

    async def _take(self, batch: RecordBatch, generation: int) -> None:
        place = (batch.topic, batch.partition)
        state = await self.open(place)
        if state is None or generation != self._group.generation:
            return
        if not batch.start <= state.wanted < batch.end:
            await self._go_to(place, state, batch)
            return
        first = bisect_left(batch.offsets, state.wanted)
        offsets, values = batch.offsets[first:], batch.values[first:]
        sums = await asyncio.get_running_loop().run_in_executor(
            self._folder, self._fold, place, state, offsets, values
        )
        if self._owned.get(place) is not state:
            return
        state.log_end = batch.log_end
        state.wanted = batch.end
        state.end = max(state.end, batch.end)
        state.sums.add(sums)
        await self._wait_for_room(place, state)

    def _fold(
        self, place: Place, state: _Summing, offsets: list[int], values: list[bytes | None]
    ) -> PartialSums:
        """In a thread: decoding leaves the loop free. What it refuses, ingest has refused."""
        usage = decode(*place, offsets, values).tables.get(USAGE_EVENTS)
        if usage is None:
            return PartialSums()
        return fold(usage, state.end, state.recent, self._estimator())

    async def _go_to(self, place: Place, state: _Summing, batch: RecordBatch) -> None:
        """A batch from elsewhere: fetch from where it is wanted, unless that was just asked for."""
        if monotonic() - state.sought_s < _SEEK_AGAIN_S:
            return
        if batch.start > state.wanted:
            log_start = await self._patiently(
                partial(self._group.log_start, *place), "asking for the log's start", place
            )
            if log_start > state.wanted:
                self._skip_to(place, state, log_start)
        state.sought_s = monotonic()
        await self._group.go_back(*place, state.wanted)

    def _skip_to(self, place: Place, state: _Summing, log_start: int) -> None:
        if log_start > state.end:
            self.counters.lost_offsets += log_start - state.end
            log.error(
                "retention passed records that were never summed; hour close corrects it",
                extra={"place": place, "first": state.end, "log_start": log_start},
            )
            state.end = log_start
        state.wanted = log_start

    async def _read_state(self, place: Place) -> _Summing:
        log_start = await self._patiently(
            partial(self._group.log_start, *place), "asking for the log's start", place
        )
        summed = await self._patiently(
            partial(self._ask_store, place), "asking how far the sums are", place
        )
        offset = log_start if summed is None else summed
        before = max(log_start, offset - self._lookback)
        return _Summing(offset, offset, before, RecentIds(self._lookback))

    async def _ask_store(self, place: Place) -> int | None:
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._committer, offset_of, self._store, *place
            )
        except DBAPIError as error:
            raise NotNowError(repr(error)) from error

    def _waiting(self) -> bool:
        return any(state.end > state.start for state in self._owned.values())

    async def _commit(self) -> None:
        taken = [
            state.take(place) for place, state in self._owned.items() if state.end > state.start
        ]
        try:
            self._hook("before-commit")
            await asyncio.get_running_loop().run_in_executor(
                self._committer, add_stretches, self._store, taken
            )
            self._hook("after-commit")
        except OffsetMovedError as error:
            self.counters.moved_partitions += 1
            log.warning("summed by somebody else", extra={"why": str(error)})
            await self._read_again(taken)
        except DBAPIError as error:
            # Whether it was done nobody knows; the store will say.
            self.counters.retries += 1
            log.warning("not committed", extra={"why": str(error.orig)[:500]})
            await asyncio.sleep(self._retry_s[0])
            await self._read_again(taken)
        except Exception as error:
            self._fail(error)
        else:
            self.counters.commits += 1
            self.counters.records += sum(one.end - one.start for one in taken)
            self.counters.requests += sum(len(one.sums.finished) for one in taken)
        finally:
            self._committed_s = monotonic()
            self._committing = None
            await self._wake()

    async def _read_again(self, taken: list[Stretch]) -> None:
        """Take these partitions up again from where the store says that they are."""
        for one in taken:
            place = (one.topic, one.partition)
            self._owned.pop(place, None)
            state = await self.open(place)
            if state is not None:
                state.sought_s = monotonic()
                await self._group.go_back(*place, state.wanted)

    async def _wait_for_room(self, place: Place, state: _Summing) -> None:
        async with self._moved:
            await self._moved.wait_for(
                lambda: (
                    self._owned.get(place) is not state
                    or state.end - state.start < self._pending_max
                )
            )

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
        log.error("live spend stops", exc_info=error)

    async def _wake(self) -> None:
        async with self._moved:
            self._moved.notify_all()
