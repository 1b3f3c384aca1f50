"""Notes the archive's entries in the billing store."""

from sqlalchemy import Engine

from infra.store.archive_heads import ArchiveHead, record_archive_head
from schemas.clock import Clock
from schemas.units import NS_PER_MS
from streams.archive_manifest import Head
from streams.sink_needs import Place


class StoredHeads:
    """Keeps heads in the store; see `streams.archive_worker.HeadKeeper`."""

    def __init__(self, store: Engine, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def keep(self, place: Place, head: Head) -> None:
        """Note an entry.

        Raises:
            ConservationError: If the store knows another entry of that number.
            ServerError: If the store cannot be reached.
        """
        now_ms = self._clock.now_ns() // NS_PER_MS
        record_archive_head(
            self._store, ArchiveHead(*place, head.number, head.end, head.sha256, now_ms)
        )
