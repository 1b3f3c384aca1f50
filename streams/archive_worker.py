"""The archiver: takes raw records from the log into the archive, each range exactly once.

Where a partition's chain of manifest entries ends, there it goes on: the chain, not the consumer
group, says what is archived. The group only shares the partitions out among several archivers.
Per range: write the file, append the entry (the commit), note its hash in the billing store,
tell the group. Whoever dies in between left a file that nobody names, or an entry that his
successor finds.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from time import monotonic
from typing import Protocol, TypeVar

from infra.stop_request import StopRequest
from schemas.errors import ServerError
from streams.archive import Archive, OvertakenError, Sealed, gap
from streams.archive_log import GroupLog
from streams.archive_manifest import Head
from streams.archive_records import RawRecords, table_of_records
from streams.patience import NotNowError, patiently
from streams.settings import StreamSettings
from streams.sink_needs import Hook, Place, no_hook

log = logging.getLogger("rentroll.archive")

Result = TypeVar("Result")
_STOP_CHECK_S = 0.2
_LEFT_CHECK_S = 0.5


class HeadKeeper(Protocol):
    """Remembers outside of the archive which entries there are: a cut chain betrays itself."""

    def keep(self, place: Place, head: Head) -> None:
        """Note an entry; the same again changes nothing. Raises `ServerError` if it cannot."""


@dataclass(slots=True)
class ArchiveCounters:
    """Counts since this archiver started."""

    records: int = 0
    files: int = 0
    file_bytes: int = 0
    record_bytes: int = 0
    gap_offsets: int = 0
    """Offsets that the log no longer had when they were due: retention passed them unread."""
    retries: int = 0
    overtaken: int = 0
    """Ranges that another archiver of the same group had written first."""

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass(slots=True)
class _Chain:
    """One partition while this archiver owns it: the chain's head, and what waits behind it."""

    head: Head
    waiting: RawRecords
    since_s: float = 0.0

    @property
    def expected(self) -> int:
        """The offset where the next record continues."""
        return self.waiting.offsets[-1] + 1 if len(self.waiting) else self.head.end


Progress = Callable[[ArchiveCounters, int], None]
"""Hears the counters, and how many records are still to come."""


class Archiver:
    """One archiver: its group membership, its partitions, and how it ends."""

    def __init__(
        self,
        archive: Archive,
        group: GroupLog,
        heads: HeadKeeper,
        settings: StreamSettings,
        *,
        hook: Hook = no_hook,
    ) -> None:
        self.counters = ArchiveCounters()
        self._archive = archive
        self._group = group
        self._heads = heads
        self._settings = settings
        self._hook = hook
        self._retry_s = (
            settings.ingest_retry_first_ms / 1_000,
            settings.ingest_retry_last_ms / 1_000,
        )
        self._mine: dict[Place, _Chain | None] = {}
        self._joined = False
        self._at_once = False
        self._leaving = False
        self._left: int | None = None
        self._left_asked_s = 0.0

    async def run(
        self,
        topics: Sequence[str],
        stop: StopRequest,
        *,
        until_idle_s: float | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        """Archive until somebody asks to stop, or until there was nothing to do for a while.

        Args:
            topics: What to archive.
            stop: Asks to stop; what waits is archived first, within the grace time.
            until_idle_s: Stop when everything is archived and nothing came for so long; ranges
                are then written as soon as the log's end is reached.
            on_progress: Called after each fetch.

        Raises:
            ContractError: If a chain's last entry cannot be read.
        """
        self._at_once = until_idle_s is not None
        await self._patiently(partial(self._join, topics), "joining the group")
        work = asyncio.ensure_future(self._work(until_idle_s, on_progress))
        try:
            while not work.done() and not stop.is_set():
                await asyncio.wait([work], timeout=_STOP_CHECK_S)
            self._leaving = True
            done, _ = await asyncio.wait([work], timeout=self._settings.ingest_grace_s)
            if done:
                work.result()
            else:
                log.warning("gave up archiving what waits; whoever comes next does it")
        finally:
            work.cancel()
            await self._group.stop()
            log.info("archived", extra=self.counters.as_dict())

    async def _join(self, topics: Sequence[str]) -> None:
        await self._group.start(topics, self._assigned, self._revoked)

    def _assigned(self, places: Sequence[Place]) -> None:
        self._joined = True
        self._mine.update(dict.fromkeys(places))

    def _revoked(self, places: Sequence[Place]) -> None:
        """What waits is dropped: its next owner reads it again."""
        for place in places:
            self._mine.pop(place, None)

    async def _work(self, until_idle_s: float | None, on_progress: Progress | None) -> None:
        idle_since_s: float | None = None
        while not self._leaving:
            await self._open_chains()
            found = await self._patiently(self._group.fetch, "fetching")
            for place, records in found.items():
                await self._take(place, records)
            await self._write_what_is_due()
            left = await self._still_to_come() if self._at_once or on_progress else None
            if on_progress is not None and left is not None:
                on_progress(self.counters, left)
            if found or left != 0:
                idle_since_s = None
                continue
            idle_since_s = monotonic() if idle_since_s is None else idle_since_s
            if until_idle_s is not None and monotonic() - idle_since_s >= until_idle_s:
                break
        for place, chain in self._open():
            await self._write(place, chain)

    def _open(self) -> list[tuple[Place, _Chain]]:
        return [(place, chain) for place, chain in self._mine.items() if chain is not None]

    async def _open_chains(self) -> None:
        """Read where each new partition's chain ends, and go on there."""
        for place in [place for place, chain in self._mine.items() if chain is None]:
            head = await self._storage(partial(self._archive.head, place), "reading a manifest")
            if head.number:
                await self._keep(place, head)
            if self._mine.get(place, head) is None:
                chain = _Chain(head, RawRecords())
                self._mine[place] = chain
                await self._note_gap(place, chain)
                if self._mine.get(place) is chain:
                    self._group.read_from(place, chain.head.end)

    async def _log_start(self, place: Place) -> int:
        """The first offset that the log still has."""
        bounds = await self._patiently(
            partial(self._group.bounds, [place]), "asking for the log's start"
        )
        return bounds[place][0]

    async def _note_gap(self, place: Place, chain: _Chain) -> None:
        """Put on record that the log no longer has what should be archived next."""
        start = await self._log_start(place)
        if start <= chain.head.end:
            return
        missing = gap(place, chain.head, start)
        if chain.head.number:
            log.error(
                "retention passed records that were never archived",
                extra={"place": place, "first": chain.head.end, "log_start": start},
            )
        self.counters.gap_offsets += start - chain.head.end
        await self._commit(place, chain, missing)

    async def _take(self, place: Place, records: RawRecords) -> None:
        chain = self._mine.get(place)
        if chain is None:
            return
        fresh = records.without_those_before(chain.expected)
        if not len(fresh):
            return
        hole = fresh.offsets[0] > chain.expected
        # Compaction leaves holes too; only retention leaves a log that begins behind one.
        if hole and await self._log_start(place) > chain.expected:
            await self._write(place, chain)
            if self._mine.get(place) is chain:
                await self._note_gap(place, chain)
        if self._mine.get(place) is not chain:
            return
        if not len(chain.waiting):
            chain.since_s = monotonic()
        chain.waiting.extend(fresh)

    async def _write_what_is_due(self) -> None:
        settings = self._settings
        for place, chain in self._open():
            waits = chain.waiting
            old = monotonic() - chain.since_s >= settings.archive_wait_s
            full = (
                len(waits) >= settings.archive_file_records
                or waits.size_bytes >= settings.archive_file_bytes
            )
            at_the_end = self._at_once and self._left == 0
            if len(waits) and (full or old or at_the_end):
                await self._write(place, chain)
        while self._waiting_bytes() > settings.archive_buffer_bytes:
            place, chain = max(self._open(), key=lambda one: one[1].waiting.size_bytes)
            await self._write(place, chain)

    def _waiting_bytes(self) -> int:
        return sum(chain.waiting.size_bytes for _, chain in self._open())

    async def _write(self, place: Place, chain: _Chain) -> None:
        """Archive what waits in a partition as one range."""
        records = chain.waiting
        if not len(records):
            return
        end = chain.expected

        def seal() -> Sealed:
            return self._archive.seal(chain.head, end, table_of_records(*place, records))

        self._hook("before-file")
        sealed = await self._storage(seal, "writing a file")
        self._hook("after-file")
        if not await self._commit(place, chain, sealed):
            return
        chain.waiting = RawRecords()
        self.counters.records += len(records)
        self.counters.files += 1
        self.counters.file_bytes += sealed.entry.file_bytes
        self.counters.record_bytes += records.size_bytes
        self._hook("after-range")

    async def _commit(self, place: Place, chain: _Chain, sealed: Sealed) -> bool:
        """Append an entry; False if the chain has moved on, and is then read again."""
        try:
            head = await self._storage(
                partial(self._archive.append, sealed), "appending to a manifest"
            )
        except OvertakenError as error:
            self.counters.overtaken += 1
            log.warning("partition has another archiver", extra={"place": place, "why": str(error)})
            if self._mine.get(place) is chain:
                self._mine[place] = None
            return False
        self._hook("after-entry")
        chain.head = head
        await self._keep(place, head)
        self._hook("after-head")
        try:
            await self._group.commit(place, head.end)
        except NotNowError as error:
            log.info("the group was not told", extra={"place": place, "why": str(error)})
        return True

    async def _keep(self, place: Place, head: Head) -> None:
        await self._storage(partial(self._heads.keep, place, head), "noting an entry")

    async def _still_to_come(self) -> int | None:
        """Records of the log that are not archived yet; None while nobody can tell."""
        if not self._joined or None in self._mine.values():
            return None
        if self._left is None or monotonic() - self._left_asked_s >= _LEFT_CHECK_S:
            self._left_asked_s = monotonic()
            try:
                bounds = await self._group.bounds(list(self._mine))
            except NotNowError:
                self._left = None
                return None
            chains = self._open()
            fetched = {place: chain.expected for place, chain in chains}
            self._left = sum(
                max(0, end - fetched[place])
                for place, (_, end) in bounds.items()
                if place in fetched
            )
        waiting = sum(len(chain.waiting) for _, chain in self._open())
        return self._left + waiting

    async def _storage(self, call: Callable[[], Result], what: str) -> Result:
        """Run a call that blocks, in a thread, until the storage takes it."""

        async def attempt() -> Result:
            try:
                return await asyncio.to_thread(call)
            except ServerError as error:
                raise NotNowError(str(error)) from error

        return await self._patiently(attempt, what)

    async def _patiently(self, attempt: Callable[[], Awaitable[Result]], what: str) -> Result:
        return await patiently(attempt, what, self._retry_s, self._count_retry)

    def _count_retry(self) -> None:
        self.counters.retries += 1
