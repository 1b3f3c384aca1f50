"""What ingest knows of one partition: what is written, promised and waiting. Pure.

    commit(start, {"e": end})  ->  write [start, end)  ->  the next commit confirms it

A commit promises a range before it is written. Whoever finds a promise that was not confirmed
writes exactly that range first, under the same token, so that writing twice changes nothing.
"""

import json
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Generic, TypeVar

from schemas.errors import IngestError

Content = TypeVar("Content")
_END = "e"


@dataclass(frozen=True, slots=True)
class Run:
    """Records of one partition between two offsets, `[start, end)`; not every offset has one."""

    start: int
    end: int
    offsets: Sequence[int]
    values: Sequence[bytes | None]


@dataclass(frozen=True, slots=True)
class Piece(Generic[Content]):
    """A decoded run that waits to be written; `rows` counts its records, `size` its bytes."""

    start: int
    end: int
    rows: int
    size: int
    content: Content


_WORTH_AT_THE_END = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """When a range is large enough, or old enough, to be written.

    While the log holds more it may grow: small inserts cost ClickHouse most. At the log's end it
    is written when it has a quarter of `rows`, or no record came for `quiet_s`, and anywhere when
    its first one has waited for `wait_s`.
    """

    rows: int
    size_bytes: int
    quiet_s: float
    wait_s: float


def promise(end: int) -> str:
    """The metadata of a commit that promises everything up to `end`."""
    return json.dumps({_END: end})


def promised_end(metadata: str, committed: int) -> int | None:
    """The end that a commit promised beyond its own offset; None where it promised nothing.

    Raises:
        IngestError: If the metadata is not ours: another program commits for this group.
    """
    if not metadata:
        return None
    try:
        end = json.loads(metadata)[_END]
    except (ValueError, KeyError, TypeError) as error:
        raise IngestError(f"commit metadata {metadata[:80]!r} was not written by ingest") from error
    if type(end) is not int or end <= committed:
        raise IngestError(f"commit metadata {metadata[:80]!r} at offset {committed} goes nowhere")
    return end


@dataclass(slots=True)
class Partition(Generic[Content]):
    """One partition while this worker owns it.

    `written` is where the ledger ends, `promised` the end of a range that may or may not be
    written yet, `confirmed` what the group knows to be written, `log_end` where the log ended
    when something was last fetched. One range at a time is taken.
    """

    written: int
    promised: int | None
    confirmed: int
    log_end: int = 0
    _taken: int = field(init=False)
    _waiting: deque[Piece[Content]] = field(default_factory=deque)
    _waiting_since_s: float = 0.0
    _last_added_s: float = 0.0

    def __post_init__(self) -> None:
        self._taken = self.written

    @property
    def expected(self) -> int:
        """The offset where the next record continues."""
        return self._waiting[-1].end if self._waiting else self._taken

    @property
    def waiting_rows(self) -> int:
        return sum(piece.rows for piece in self._waiting)

    @property
    def waiting_bytes(self) -> int:
        return sum(piece.size for piece in self._waiting)

    @property
    def settled(self) -> bool:
        """Whether nothing waits, and the group knows everything that is written."""
        return self.expected == self.confirmed and self.promised is None

    def admit(self, fetched: Run) -> list[Run]:
        """Cut what a fetch brought into runs: without what is known, split at the promised end.

        Raises:
            IngestError: If it starts after the expected offset: something is missing before it.
        """
        start, end = self.expected, fetched.end
        if fetched.start > start:
            raise IngestError(f"a fetch starts at {fetched.start}, expected was {start}")
        if end <= start:
            return []
        offsets, values = fetched.offsets, fetched.values
        cuts = [start, end]
        if self.promised is not None and start < self.promised < end:
            cuts.insert(1, self.promised)
        runs = []
        for low, high in pairwise(cuts):
            first, last = bisect_left(offsets, low), bisect_left(offsets, high)
            runs.append(Run(low, high, offsets[first:last], values[first:last]))
        return runs

    def skip_to(self, start: int) -> None:
        """The log no longer has what is before `start`; only where nothing waits.

        Raises:
            IngestError: If something waits, or it is no step forward.
        """
        if self.expected != self.written or start < self.written:
            raise IngestError(f"cannot skip from {self.expected} to {start}")
        self.written = self._taken = start
        if self.promised is not None and self.promised <= start:
            self.promised = None

    def add(self, piece: Piece[Content], now_s: float) -> None:
        """Let a decoded run wait for its turn.

        Raises:
            IngestError: If it does not continue where the last one ended.
        """
        if piece.start != self.expected:
            raise IngestError(f"a run starts at {piece.start}, expected was {self.expected}")
        if not self._waiting:
            self._waiting_since_s = now_s
        self._last_added_s = now_s
        self._waiting.append(piece)

    def ready(self, limits: Limits, now_s: float) -> bool:
        """Whether a range should be written now."""
        if not self._waiting:
            return False
        if self.promised is not None:
            return self.expected >= self.promised > self._taken
        return (
            self.waiting_rows >= limits.rows
            or self.waiting_bytes >= limits.size_bytes
            or (self.expected >= self.log_end and self._nothing_to_wait_for(limits, now_s))
            or now_s - self._waiting_since_s >= limits.wait_s
        )

    def _nothing_to_wait_for(self, limits: Limits, now_s: float) -> bool:
        """At the log's end: whether an insert is worth it, or no record comes to make it so."""
        worth_it = self.waiting_rows * _WORTH_AT_THE_END >= limits.rows
        return worth_it or now_s - self._last_added_s >= limits.quiet_s

    def full(self, limits: Limits) -> bool:
        """Whether as much waits as one range may hold; a promised range is let in whole."""
        if self.promised is not None and self.expected < self.promised:
            return False
        return self.waiting_rows >= limits.rows or self.waiting_bytes >= limits.size_bytes

    def take(self, limits: Limits, now_s: float) -> list[Piece[Content]]:
        """The pieces of the next range, at least one; they wait no longer.

        Raises:
            IngestError: If the promised range is not here whole yet.
        """
        taken: list[Piece[Content]] = []
        rows = size = 0
        while self._waiting:
            piece = self._waiting[0]
            if self.promised is not None:
                if piece.start >= self.promised:
                    break
            elif taken and (
                rows + piece.rows > limits.rows or size + piece.size > limits.size_bytes
            ):
                break
            taken.append(self._waiting.popleft())
            rows += piece.rows
            size += piece.size
        if not taken or (self.promised is not None and taken[-1].end != self.promised):
            raise IngestError(f"the range from {self.written} to {self.promised} is not here whole")
        self._taken = taken[-1].end
        self._waiting_since_s = now_s
        return taken

    def promise_made(self, end: int) -> None:
        """A commit says that `[written, end)` is being written; what is before it is confirmed."""
        self.confirmed = self.written
        self.promised = end

    def range_written(self) -> None:
        """The promised range is in the ledger; the next commit will say so.

        Raises:
            IngestError: If nothing was promised.
        """
        if self.promised is None:
            raise IngestError(f"a range from {self.written} was written without a promise")
        self.written = self.promised
        self.promised = None

    def settled_up_to_written(self) -> None:
        """A plain commit says that everything before `written` is in the ledger."""
        self.confirmed = self.written
