r"""The spool: append-only segments of checksummed frames on local disk, written before all else.

A frame is one line, `<crc32:8 hex> <length:8 hex> <kind> <id> <subject> <data>\n`; checksum and
length are of what follows them, without the line break. The data is JSON without line breaks, so
a reader finds the next frame behind a corrupt one. One `write` takes a batch of frames: after it
returns they are in the page cache and survive the death of this process; what a power cut may
cost is the fsync policy's to say. A segment's writer holds `flock` on it, so a reader sees whether
it lives, however it died.
"""

import fcntl
import os
import threading
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

from inference.settings import InferenceSettings
from inference.wire import THE_SOURCE, LostWire, Record, format_time, to_json
from schemas.errors import SpoolError, SpoolFullError
from schemas.ids import derived_entropy, is_uuid7, uuid7, uuid7_unix_ms
from schemas.units import MS_PER_S

SEGMENT_SUFFIX = ".spool"
_HEADER_BYTES = 18
_READ_BYTES = 1 << 20
_LOSS_ROOM_BYTES = 4_096
_ONE_PER_REQUEST = ("request.finished", "door.open")
"""Kinds of which each request has exactly one: the door's opening, or the simulator's event."""
_OF_A_PROCESS = ("door.boot", "door.mark", "door.stop")
"""Kinds that tell of no usage; their id holds the time when their process began."""


PORTION_RECORDS = 64


class RecordSink(Protocol):
    """Where records go: a `Spool`."""

    def append(self, records: Sequence[Record]) -> bool:
        """Keep records; raises `SpoolError` or `OSError` where it cannot."""
        ...


def append_waiting(
    sink: RecordSink, waiting: deque[Record], on_dropped: Callable[[int], object]
) -> None:
    """Append what waits, in portions: all that has come together may be more than a spool holds.

    Args:
        sink: Where to.
        waiting: Loses each portion that was taken, or dropped by policy.
        on_dropped: Is told how many records the policy dropped.

    Raises:
        SpoolError: As `Spool.append`; what was not taken still waits.
    """
    while waiting:
        portion = list(islice(waiting, PORTION_RECORDS))
        if not sink.append(portion):
            on_dropped(len(portion))
        for _ in portion:
            waiting.popleft()


def encode_frame(record: Record) -> bytes:
    """One record as a line of a segment."""
    body = f"{record.kind} {record.id} {record.subject} ".encode() + record.data
    return b"%08x %08x %b\n" % (zlib.crc32(body), len(body), body)


def decode_frame(line: bytes) -> Record | None:
    """The record in a line, line break included; None where the frame is corrupt."""
    body = line[_HEADER_BYTES:-1]
    if line[:_HEADER_BYTES] != b"%08x %08x " % (zlib.crc32(body), len(body)):
        return None
    try:
        kind, event_id, subject, data = body.split(b" ", 3)
        return Record(kind.decode(), event_id.decode(), subject.decode(), data)
    except ValueError:
        return None


class Position(NamedTuple):
    """How far a spool was read: the next byte of a segment."""

    segment: int
    offset: int


class Damage(NamedTuple):
    """A frame that cannot be read, and why."""

    reason: str
    position: Position
    size_bytes: int


@dataclass(slots=True)
class _Lost:
    requests: int = 0
    first_ms: int = 0
    last_ms: int = 0

    def count(self, records: Sequence[Record]) -> None:
        # An engine's own id holds no time. Its lost intervals show by themselves: the next ones do
        # not follow, or do not close.
        times = [
            uuid7_unix_ms(record.id)
            for record in records
            if is_uuid7(record.id) and record.kind not in _OF_A_PROCESS
        ]
        self.first_ms = min([*times, self.first_ms] if self.first_ms else times, default=0)
        self.last_ms = max([*times, self.last_ms])
        self.requests += sum(record.kind in _ONE_PER_REQUEST for record in records)


def segment_path(folder: Path, number: int) -> Path:
    """Where segment `number` of a spool lies."""
    return folder / f"{number:08d}{SEGMENT_SUFFIX}"


def segment_numbers(folder: Path) -> list[int]:
    """Numbers of the segments that are there, in order."""
    return sorted(int(path.stem) for path in folder.glob(f"*{SEGMENT_SUFFIX}"))


class Spool:
    """The writing end; one writer per folder.

    Raises:
        SpoolError: If another living writer has the folder, or the disk fails.
    """

    def __init__(self, folder: Path, settings: InferenceSettings) -> None:
        self._folder = folder
        self._settings = settings
        self._lost = _Lost()
        self._size = self._used = 0
        self._dirty = False
        self._retired: list[int] = []
        self._stop = threading.Event()
        folder.mkdir(parents=True, exist_ok=True)
        numbers = segment_numbers(folder)
        if numbers and writer_lives(segment_path(folder, numbers[-1])):
            raise SpoolError(f"spool {folder} has a living writer already")
        self._number = numbers[-1] if numbers else -1
        self._descriptor = -1
        self._roll()
        self._syncer: threading.Thread | None = None
        if settings.spool_fsync == "interval":
            self._syncer = threading.Thread(target=self._sync_often, name="spool", daemon=True)
            self._syncer.start()

    def append(self, records: Sequence[Record]) -> bool:
        """Write records with one `write`; in the page cache when this returns.

        Returns:
            False if the spool is full and its policy is to count: then the records are dropped,
            and a `usage.lost` record will say so as soon as there is room again.

        Raises:
            SpoolFullError: If the spool is full and its policy is to refuse.
            SpoolError: If the disk fails.
        """
        batch = b"".join(map(encode_frame, records))
        if self._is_full(len(batch)):
            if self._settings.spool_when_full == "refuse":
                raise SpoolFullError(
                    f"spool {self._folder}: {len(batch)} more bytes pass its bound"
                    f" spool_max_bytes={self._settings.spool_max_bytes}",
                )
            self._lost.count(records)
            return False
        if self._lost.requests or self._lost.first_ms:
            batch = encode_frame(self._lost_record()) + batch
            self._lost = _Lost()
        self._write(batch)
        if self._settings.spool_fsync == "always":
            os.fsync(self._descriptor)
        if self._size >= self._settings.spool_segment_bytes:
            self._roll()
        return True

    def close(self) -> None:
        """Flush to disk and let go of the segment."""
        self._stop.set()
        if self._syncer is not None:
            self._syncer.join()
        if self._settings.spool_fsync != "never":
            self._sync()
        os.close(self._descriptor)

    def _is_full(self, more_bytes: int) -> bool:
        """Segments that the outbox has deleted no longer count, so the disk is asked, rarely."""
        bound = self._settings.spool_max_bytes - _LOSS_ROOM_BYTES
        if self._used + more_bytes > bound:
            self._used = sum(
                segment_path(self._folder, number).stat().st_size
                for number in segment_numbers(self._folder)
            )
        return self._used + more_bytes > bound

    def _write(self, batch: bytes) -> None:
        view = memoryview(batch)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            # All or nothing: the caller may write the same records again.
            os.ftruncate(self._descriptor, self._size)
            raise SpoolError(f"spool {self._folder}: {error}") from error
        self._size += len(batch)
        self._used += len(batch)
        self._dirty = True

    def _lost_record(self) -> Record:
        lost = self._lost
        data = LostWire(
            reason="spool.full",
            requests=lost.requests,
            first_lost_at=format_time(lost.first_ms),
            last_lost_at=format_time(lost.last_ms),
        )
        entropy = derived_entropy(str(self._folder), str(self._number), str(self._size))
        return Record("usage.lost", uuid7(lost.first_ms, entropy), THE_SOURCE, to_json(data))

    def _roll(self) -> None:
        """Begin a segment, which gets its name once it is locked, while the last one still is.

        A reader that looks in between finds a lock on the newest segment at any instant, and
        never takes a living writer for dead.
        """
        number = self._number + 1
        path = segment_path(self._folder, number)
        nameless = path.with_suffix(".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC | os.O_CLOEXEC
        descriptor = os.open(nameless, flags, 0o640)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        nameless.rename(path)
        if self._descriptor >= 0:
            self._retired.append(self._descriptor)
        self._descriptor, self._number = descriptor, number
        if self._settings.spool_fsync != "interval":
            self._sync_retired()
        self._size = 0
        self._used = sum(
            segment_path(self._folder, number).stat().st_size
            for number in segment_numbers(self._folder)
        )

    def _sync(self) -> None:
        self._sync_retired()
        if self._dirty:
            self._dirty = False
            os.fsync(self._descriptor)

    def _sync_retired(self) -> None:
        while self._retired:
            descriptor = self._retired.pop()
            if self._settings.spool_fsync != "never":
                os.fsync(descriptor)
            os.close(descriptor)

    def _sync_often(self) -> None:
        """On a thread of its own: whoever appends never waits for the disk."""
        while not self._stop.wait(self._settings.spool_fsync_interval_ms / MS_PER_S):
            self._sync()


def writer_lives(segment: Path) -> bool:
    """Whether a living process holds this segment open for writing."""
    try:
        descriptor = os.open(segment, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_spool(folder: Path, start: Position, limit: int) -> tuple[list[Record | Damage], Position]:
    """Up to `limit` things readable from `start` on, and the position behind them.

    A corrupt frame comes as `Damage`, and reading goes on behind it. An unfinished last line
    ends the reading while its writer lives: the rest will come. Where the writer is dead it is
    `Damage` too, a torn tail. A position in a segment that was deleted goes on with the next.
    """
    found: list[Record | Damage] = []
    position = start
    numbers = [number for number in segment_numbers(folder) if number >= start.segment]
    for number in numbers:
        path = segment_path(folder, number)
        # Asked before reading. A segment that has a follower, or no writer, does not grow.
        complete = number != numbers[-1] or not writer_lives(path)
        if number != position.segment:
            position = Position(number, 0)
        items, offset = _read_segment(path, position, limit - len(found), complete=complete)
        found += items
        position = Position(number, offset)
        if len(found) == limit:
            break
    return found, position


def _read_segment(
    path: Path, start: Position, limit: int, *, complete: bool
) -> tuple[list[Record | Damage], int]:
    found: list[Record | Damage] = []
    offset = start.offset
    with path.open("rb", buffering=_READ_BYTES) as segment:
        segment.seek(offset)
        for line in islice(segment, limit):
            item: Record | Damage | None = decode_frame(line)
            if item is None:
                whole = line.endswith(b"\n")
                if not whole and not complete:
                    break
                reason = "spool.corrupt_frame" if whole else "spool.torn_tail"
                item = Damage(reason, Position(start.segment, offset), len(line))
            found.append(item)
            offset += len(line)
    return found, offset
