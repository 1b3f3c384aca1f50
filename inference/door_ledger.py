"""What a door writes down: every request once when it opens and once when it closes.

The opening is durable before the engine hears of the request, so a dead API server leaves a name
for whatever the engine computed. Once a request is admitted nothing here fails it: what cannot be
written waits in a bounded backlog for the next write, and every failure is counted.
"""

import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Literal

import msgspec

from inference.door_records import (
    DOOR_BOOT,
    DOOR_CLOSE,
    DOOR_MARK,
    DOOR_OPEN,
    DOOR_STOP,
    DoorBoot,
    DoorClose,
    DoorMark,
    DoorOpen,
    DoorStop,
)
from inference.settings import InferenceSettings
from inference.spool import Spool, append_waiting
from inference.wire import THE_SOURCE, Record, to_json
from schemas.clock import Clock
from schemas.errors import SpoolError
from schemas.ids import uuid7
from schemas.units import NS_PER_MS

_ID_ENTROPY_BITS = 74
DOORS_FOLDER = "doors"
"""Below the host's folder; in it a spool for each boot of each API server process."""

Count = Literal[
    "admitted",
    "refused",
    "unnamed",
    "left_early",
    "finished",
    "aborted",
    "failed",
    "metering_failures",
    "span_failures",
    "records_dropped",
    "admission_failures",
    "admitted_unasked",
]


class DoorLedger:
    """The writing end of one door, in one process and one thread.

    Raises:
        SpoolError: If the spool cannot be opened or its first record not be written.
    """

    def __init__(self, door: str, spool: Spool, settings: InferenceSettings, clock: Clock) -> None:
        self.door = door
        self._spool = spool
        self._refuses = settings.spool_when_full == "refuse"
        self._clock = clock
        self._backlog: deque[Record] = deque()
        self._backlog_max = settings.door_backlog_records
        self._minted_ns = 0
        self._stopped = False
        self.counts: dict[str, int] = {}
        now_ns = self.now_ns()
        boot = DoorBoot(door, socket.gethostname(), os.getpid(), now_ns, time.monotonic_ns())
        spool.append([self._record(DOOR_BOOT, door, boot)])

    def now_ns(self) -> int:
        """Unix time in ns that never steps back, whatever the host's clock does."""
        self._minted_ns = max(self._minted_ns, self._clock.now_ns())
        return self._minted_ns

    def mint(self, now_ns: int) -> str:
        """The id of a request that is admitted now; to be written before the next is minted."""
        return uuid7(now_ns // NS_PER_MS, secrets.randbits(_ID_ENTROPY_BITS))

    def count(self, what: Count, by: int = 1) -> None:
        """Add to one of the door's counters."""
        self.counts[what] = self.counts.get(what, 0) + by

    def opened(self, request: DoorOpen) -> bool:
        """Write that a request was admitted.

        Returns:
            False if it could not be written and must not be served. Where the policy is to serve
            and count, it waits in the backlog instead.
        """
        record = self._record(DOOR_OPEN, request.id, request)
        if self._stopped:
            return False
        if not self._refuses:
            self._write([record])
            return True
        try:
            self._write_backlog()
            self._spool.append([record])
        except (SpoolError, OSError):
            self.count("metering_failures")
            return False
        return True

    def closed(self, request: DoorClose) -> None:
        """Write that nothing more will reach the client; never fails."""
        self._write([self._record(DOOR_CLOSE, request.id, request)])

    def refused(self, opened: DoorOpen, closed: DoorClose) -> None:
        """Write a request that was turned away, as one; never fails."""
        self._write(
            [
                self._record(DOOR_OPEN, opened.id, opened),
                self._record(DOOR_CLOSE, closed.id, closed),
            ]
        )

    def mark(self) -> None:
        """Say that everything admitted up to now is written above; only while it is."""
        self._write([])
        if not self._backlog:
            mark = DoorMark(self.now_ns(), time.monotonic_ns())
            self._write([self._record(DOOR_MARK, self.door, mark)], keep=False)

    def stop(self) -> None:
        """The last record; what comes after it is counted as dropped."""
        if self._stopped:
            return
        self._write([])
        if not self._backlog:
            stop = DoorStop(self.now_ns(), time.monotonic_ns())
            self._write([self._record(DOOR_STOP, self.door, stop)], keep=False)
        self._stopped = True
        self._spool.close()

    def _write(self, records: Sequence[Record], *, keep: bool = True) -> None:
        """Append the backlog and these; what cannot be written is kept, up to the bound."""
        if not records and not self._backlog:
            return
        if self._stopped:
            self.count("records_dropped", len(records))
            return
        try:
            self._write_backlog()
            if records and not self._spool.append(records):
                # Full, and the policy is to count: the spool will say how many requests it lost.
                self.count("records_dropped", len(records))
        except (SpoolError, OSError):
            self.count("metering_failures")
            if keep:
                self._keep(records)

    def _write_backlog(self) -> None:
        append_waiting(
            self._spool, self._backlog, on_dropped=partial(self.count, "records_dropped")
        )

    def _keep(self, records: Sequence[Record]) -> None:
        room = self._backlog_max - len(self._backlog)
        self._backlog.extend(records[:room])
        if len(records) > room:
            self.count("records_dropped", len(records) - room)

    @staticmethod
    def _record(kind: str, record_id: str, data: msgspec.Struct) -> Record:
        return Record(kind, record_id, THE_SOURCE, to_json(data))


def open_ledger(settings: InferenceSettings, clock: Clock) -> DoorLedger:
    """The ledger of a door that opens now, in a spool folder of its own.

    Raises:
        SpoolError: If the disk fails.
    """
    door = uuid7(clock.now_ns() // NS_PER_MS, secrets.randbits(_ID_ENTROPY_BITS))
    spool = Spool(settings.host_folder / DOORS_FOLDER / door, settings)
    return DoorLedger(door, spool, settings, clock)
