"""The sidecar of a host: merges the spools of all its processes into its outbox, and publishes.

It is a process of its own, so that neither engine nor API server waits for a disk or for Kafka, and
so that it can say what they cannot any more when they are killed. It may be killed too: its state
lies with its events in one file (`inference.merge_store`), and it goes on from there.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue

from inference.emitted_totals import add_emitted
from inference.host_source import lock_host, open_source, outboxes_of
from inference.merge import Changed, Kind, Merge
from inference.merge_store import MergeStore, SpoolState
from inference.publisher import PublishedCounts, Publisher
from inference.settings import InferenceSettings
from inference.sidecar_status import EngineStatus
from inference.spool import (
    Damage,
    read_spool,
    segment_numbers,
    segment_path,
    writer_lives,
)
from inference.wire import THE_SOURCE, LostWire, Record, format_time, to_json
from infra.stop_request import StopRequest
from schemas.clock import Clock
from schemas.errors import ServerError
from schemas.ids import derived_entropy, uuid7
from schemas.units import MS_PER_S, NS_PER_MS

KINDS: tuple[Kind, Kind] = ("engine", "door")
"""In the order in which a round reads them: what an engine names, a door has written before."""
FOLDER_OF: dict[Kind, str] = {"engine": "engines", "door": "doors"}
_PAUSE_S = 0.05
_PUBLISH_PAUSE_S = 0.2
_log = logging.getLogger(__name__)


class Sidecar:
    """Merges rounds; call `merge_round` again and again, then `close`.

    Attributes:
        identity: Who the host speaks as; its public key must be registered in the billing store.
        folder: Of the outbox.
        merged_ms: When the last round began that read everything there was, Unix time; 0 if none.

    Raises:
        SpoolError: If another sidecar serves this host, or the disk fails.
    """

    def __init__(self, settings: InferenceSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = lock_host(settings.host_folder)
        self._suspects: set[str] = set()
        self._forgot_ms = clock.now_ns() // NS_PER_MS
        self.merged_ms = 0
        self._open()

    def _open(self) -> None:
        """Go on with the source that is not closed, or begin one."""
        self._outbox, self.identity, self.folder = open_source(self._settings, self._clock)
        self._merge = Merge(self._settings.late_parts_ms)
        self._store = MergeStore(self._outbox.connection)
        self._spools = self._store.load(self._merge)
        # A kill may have left what was read to its end; the next source would read it again.
        self._delete_what_was_read()

    @property
    def open_requests(self) -> int:
        """Client requests that were opened and whose event is not in the outbox."""
        return len(self._merge.requests)

    @property
    def living(self) -> int:
        """Engines and doors that have not ended."""
        return len(self._merge.engines) + len(self._merge.doors)

    @property
    def engines(self) -> tuple[EngineStatus, ...]:
        """What the living engines last said of their own metering; safe from another thread."""
        return tuple(
            EngineStatus(
                engine=state.boot.engine,
                model=state.boot.model,
                faults=state.mark.faults,
                fault=state.mark.fault,
                unwritten=state.mark.unwritten,
            )
            for state in list(self._merge.engines.values())
            if state.mark is not None
        )

    @property
    def events(self) -> int:
        """Events that the outbox has made."""
        return self._outbox.events

    def merge_round(self) -> int:
        """Read what there is, merge it, and commit events and state at once.

        Returns:
            How many records it read; 0 as well while the outbox is at its bound.
        """
        if self._outbox.pending_bytes() >= self._settings.outbox_max_bytes:
            return 0
        now_ms = self._clock.now_ns() // NS_PER_MS
        self._merge.begin(now_ms)
        # Listed first: a door that comes later admits nobody before `now_ms`.
        spools = {kind: self._list(kind) for kind in KINDS}
        for name, folder in spools["door"]:
            if name not in self._spools and segment_numbers(folder):
                self._merge.door_found(folder.name)
        moved: dict[str, SpoolState] = {}
        lost: list[Record] = []
        read, whole = 0, True
        for kind in KINDS:
            for name, folder in spools[kind]:
                count, complete = self._read(kind, name, folder, moved, lost)
                read += count
                whole = whole and complete
        if whole:
            self._merge.settle()
            self.merged_ms = now_ms
        events, changed = self._merge.take()
        if read or events or lost or moved or changed.requests or changed.doors:
            self._outbox.take(
                [*lost, *events],
                self._outbox.position,
                also=lambda: self._save(events, changed, moved, now_ms),
            )
            self._spools.update(moved)
            self._delete_what_was_read()
        self._forget(now_ms)
        return read

    def _save(
        self,
        events: Sequence[Record],
        changed: Changed,
        moved: Mapping[str, SpoolState],
        now_ms: int,
    ) -> None:
        """What belongs to a round's events, in their transaction."""
        self._store.save(self._merge, changed, moved, now_ms)
        add_emitted(self._outbox.connection, events)

    def close_source(self) -> None:
        """Say that nothing follows; only once all processes of the host have ended."""
        self._outbox.close_source("drained", now_ms=self._clock.now_ns() // NS_PER_MS)

    def roll_over(self) -> bool:
        """Close a source that has many events and begin another, between two lives of a host.

        Only while no process of the host lives and nothing waits: an engine's parts and intervals
        stay in one source, by which the close of an hour holds them together, and nothing of the
        merge is to be carried over. So a kill on the way leaves a closed source and no other, as
        any stop in order does.

        Returns:
            Whether another source was begun; it is to be registered before it is published.
        """
        merge = self._merge
        waits = merge.requests or merge.strays or merge.engines or merge.doors or self._spools
        if waits or self._outbox.events < self._settings.source_max_records:
            return False
        self.close_source()
        self._outbox.close()
        self._open()
        return True

    def close(self) -> None:
        """Let go of the host; a source that is not closed is gone on with."""
        self._outbox.close()
        os.close(self._lock)

    def _list(self, kind: Kind) -> list[tuple[str, Path]]:
        root = self._settings.host_folder / FOLDER_OF[kind]
        if not root.is_dir():
            return []
        return [(f"{kind}/{path.name}", path) for path in sorted(root.iterdir())]

    def _read(
        self,
        kind: Kind,
        name: str,
        folder: Path,
        moved: dict[str, SpoolState],
        lost: list[Record],
    ) -> tuple[int, bool]:
        """Read one spool; how many records, and whether to its end."""
        state = self._spools.get(name, SpoolState())
        if state.ended:
            return 0, True
        numbers = segment_numbers(folder)
        if not numbers:
            return 0, True
        # Asked before reading: what a dead writer wrote is then all there.
        lives = writer_lives(segment_path(folder, numbers[-1]))
        limit = self._settings.outbox_batch_records
        items, position = read_spool(folder, state.position, limit)
        for item in items:
            self._hear(kind, folder.name, item, lost)
        complete = len(items) < limit
        ended = complete and self._is_over(name, lives=lives)
        if ended:
            self._bury(kind, folder.name)
        if items or ended:
            moved[name] = SpoolState(position, ended)
        return len(items), complete

    def _hear(self, kind: Kind, process: str, item: Record | Damage, lost: list[Record]) -> None:
        if isinstance(item, Damage):
            lost.append(self._lost(process, item))
        elif kind == "engine":
            self._merge.engine_said(process, item)
        else:
            self._merge.door_said(process, item)

    def _is_over(self, name: str, *, lives: bool) -> bool:
        """Twice in a row: a writer that begins a new segment holds none for an instant."""
        if lives:
            self._suspects.discard(name)
            return False
        if name not in self._suspects:
            self._suspects.add(name)
            return False
        return True

    def _bury(self, kind: Kind, process: str) -> None:
        if kind == "engine":
            self._merge.engine_died(process)
        else:
            self._merge.door_died(process, time.monotonic_ns())

    def _lost(self, process: str, damage: Damage) -> Record:
        now_ms = self._clock.now_ns() // NS_PER_MS
        when = format_time(now_ms)
        data = LostWire(reason=damage.reason, requests=1, first_lost_at=when, last_lost_at=when)
        where = (process, str(damage.position.segment), str(damage.position.offset))
        event_id = uuid7(now_ms, derived_entropy(self.identity.source, *where))
        return Record("usage.lost", event_id, THE_SOURCE, to_json(data))

    def _forget(self, now_ms: int) -> None:
        """Now and then: whose requests were, that are long finished."""
        if now_ms - self._forgot_ms < self._settings.remember_s * MS_PER_S // 10:
            return
        self._forgot_ms = now_ms
        oldest_ms = now_ms - self._settings.remember_s * MS_PER_S
        for event_id in self._store.forget_before(oldest_ms):
            self._merge.finished.pop(event_id, None)

    def _delete_what_was_read(self) -> None:
        gone = [name for name, state in self._spools.items() if state.ended]
        for name in gone:
            shutil.rmtree(self._folder_of(name), ignore_errors=True)
            del self._spools[name]
        self._store.forget_spools(gone)
        for name, state in self._spools.items():
            folder = self._folder_of(name)
            for number in segment_numbers(folder):
                if number < state.position.segment:
                    segment_path(folder, number).unlink(missing_ok=True)

    def _folder_of(self, name: str) -> Path:
        kind, process = name.split("/", 1)
        return (
            self._settings.host_folder
            / FOLDER_OF["engine" if kind == "engine" else "door"]
            / process
        )


def publish_while(
    settings: InferenceSettings,
    bootstrap: str,
    stop: StopRequest,
    *,
    drain_s: float,
    counts: PublishedCounts | None = None,
    begun: SimpleQueue[Path] | None = None,
) -> int:
    """Publish the host's outboxes until told to stop, then for up to `drain_s` more.

    A Kafka that is away is waited for: the events are safe in the outbox. What was published is
    counted in `counts`, where another thread may look at it; outboxes that are begun later come
    through `begun`.

    Returns:
        Events that Kafka has not acknowledged; they stay in their outboxes.
    """
    publisher = Publisher(outboxes_of(settings), bootstrap, settings)
    if counts is not None:
        publisher.counts = counts
    deadline_s: float | None = None
    try:
        while deadline_s is None or time.monotonic() < deadline_s:
            if stop.is_set() and deadline_s is None:
                deadline_s = time.monotonic() + drain_s
            while begun is not None and not begun.empty():
                publisher.add(begun.get())
            try:
                sent = publisher.step()
            except ServerError as error:
                _log.warning("publishing waits: %s", error)
                stop.wait(_PUBLISH_PAUSE_S)
                continue
            if not sent and publisher.idle:
                if deadline_s is not None and not publisher.unpublished():
                    break
                stop.wait(_PUBLISH_PAUSE_S) if deadline_s is None else time.sleep(_PAUSE_S)
        return publisher.unpublished()
    finally:
        publisher.close()


def merge_until(
    sidecar: Sidecar,
    stop: StopRequest,
    *,
    drain_s: float,
    on_rolled_over: Callable[[], None] = lambda: None,
) -> bool:
    """Merge until told to stop, then until all processes of the host have ended and are merged.

    Args:
        sidecar: Of the host.
        stop: Set by another thread or a signal.
        drain_s: How long the processes may take to end.
        on_rolled_over: Called once the sidecar has begun another source.

    Returns:
        Whether it came to that within `drain_s`.
    """
    while not stop.is_set():
        if not sidecar.merge_round():
            if sidecar.roll_over():
                on_rolled_over()
            stop.wait(_PAUSE_S)
    deadline_s = time.monotonic() + drain_s
    quiet = 0
    while time.monotonic() < deadline_s:
        quiet = 0 if sidecar.merge_round() or sidecar.living or sidecar.open_requests else quiet + 1
        # The second quiet round has seen every writer dead twice.
        if quiet > 2:  # noqa: PLR2004
            return True
        time.sleep(_PAUSE_S)
    return False
