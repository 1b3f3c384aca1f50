"""Proves one source's records against the ranges that it signed: pure, in bounded blocks."""

import hashlib
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod

from schemas.ids import CONTENT_HASH_BYTES
from schemas.units import SEQUENCE_MAX

OTHER = 0
DEAD_LETTER = 1
"""Values of `Records.hours` that are no hour: a fleet event or part, and a refused record."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a source is not proven from `sequence` on; whatever needs that sequence is held."""

    sequence: int
    text: str


@dataclass(frozen=True, slots=True)
class RangeClaim:
    """A range whose signature is already verified: what the source says it sent."""

    first: int
    last: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Records:
    """A block of one source's records, ascending by sequence; copies of a record are one.

    `hashes` holds 16 bytes per record. `hours` holds, for a finished request, its hour in hours
    since the epoch; else `OTHER` or `DEAD_LETTER`.
    """

    sequences: "array[int]"
    hashes: bytes
    hours: "array[int]"


@dataclass(slots=True)
class RangeFindings:
    """What the ranges prove of one source.

    `spans` are the proven sequences, `(first, last)` inclusive, joined where they touch.
    `rejected` are content hashes that share a sequence with the record the source signed.
    `unproven` are sequences whose range cannot be checked because of a declared loss: nobody's
    signature vouches for them any more, so they are not billed. `lost` counts the holes.
    `last_by_hour` is the highest sequence of a proven request in each hour since the epoch.
    """

    spans: list[tuple[int, int]] = field(default_factory=list)
    unproven: list[tuple[int, int]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    rejected: set[bytes] = field(default_factory=set)
    dead_letters: list[int] = field(default_factory=list)
    usage_by_hour: Counter[int] = field(default_factory=Counter)
    ranges_proven: int = 0
    records_seen: int = 0
    last_seen: int = 0
    lost: int = 0
    holes: list[tuple[int, int]] = field(default_factory=list)
    last_by_hour: dict[int, int] = field(default_factory=dict)

    def proves(self, sequence: int) -> bool:
        """Whether a signed range vouches for that sequence."""
        after = bisect_right(self.spans, (sequence, SEQUENCE_MAX))
        return bool(after) and sequence <= self.spans[after - 1][1]


@dataclass(frozen=True, slots=True)
class _Segment:
    """A stretch of sequences to settle at once: under one claim, or under none."""

    first: int
    last: int
    claim: RangeClaim | None


class RangeVerifier:
    """Takes one source's records block by block; keeps no more than one range of them."""

    def __init__(
        self,
        claims: Sequence[RangeClaim],
        declared_losses: Sequence[tuple[int, int]] = (),
        *,
        max_candidates: int,
    ) -> None:
        """Prepare to check `claims`, in any order.

        Args:
            claims: Every range with a valid signature, in any order, copies allowed.
            declared_losses: Sequences that a person declared lost, `(first, last)` inclusive.
            max_candidates: Combinations tried where several records claim one sequence.
        """
        self._losses = list(declared_losses)
        self._max_candidates = max_candidates
        self.findings = RangeFindings()
        self._segments = list(self._chained(claims))
        self._next = 0
        self._sequences: array[int] = array("I")
        self._hashes = bytearray()
        self._hours: array[int] = array("I")

    def feed(self, records: Records) -> None:
        """Take the next block; its first sequence is not below the last one fed."""
        self._sequences.extend(records.sequences)
        self._hashes += records.hashes
        self._hours.extend(records.hours)
        if self._sequences:
            self._settle_until(self._sequences[-1] - 1)
        if self._next == len(self._segments):
            # No range covers what is left: it is seen, never proven, and need not be kept.
            self._count_seen(len(self._sequences))

    def finish(self) -> RangeFindings:
        """Settle what is left, and return what was found."""
        last_claimed = self._segments[-1].last if self._segments else 0
        self._settle_until(last_claimed)
        self._count_seen(len(self._sequences))
        self.findings.problems.sort(key=lambda problem: problem.sequence)
        return self.findings

    def _chained(self, claims: Sequence[RangeClaim]) -> Iterator[_Segment]:
        """Claims in order, with the gaps between them; a claim that overlaps is a problem."""
        expected = 1
        for claim in sorted(set(claims), key=lambda one: (one.first, one.last, one.sha256)):
            if claim.first < expected:
                self._problem(
                    claim.first,
                    f"two signed ranges overlap at sequence {claim.first}: its source signed"
                    f" different things",
                )
                continue
            if claim.first > expected:
                yield _Segment(expected, claim.first - 1, None)
            yield _Segment(claim.first, claim.last, claim)
            expected = claim.last + 1

    def _settle_until(self, complete: int) -> None:
        """Settle every segment all of whose records must have been fed by now."""
        start = 0
        while self._next < len(self._segments) and self._segments[self._next].last <= complete:
            segment = self._segments[self._next]
            first = bisect_left(self._sequences, segment.first, start)
            start = bisect_right(self._sequences, segment.last, first)
            self._settle(segment, first, start)
            self._next += 1
        self._count_seen(start)

    def _count_seen(self, until: int) -> None:
        """Count and let go of the records before index `until`."""
        if until:
            known = self._sequences[0] == self.findings.last_seen
            self.findings.records_seen += len(set(self._sequences[:until])) - known
            self.findings.last_seen = self._sequences[until - 1]
            del self._sequences[:until]
            del self._hours[:until]
            del self._hashes[: until * CONTENT_HASH_BYTES]

    def _settle(self, segment: _Segment, start: int, end: int) -> None:
        if not _dense(segment, self._sequences[start:end]):
            self._settle_untidy(segment, start, end)
        elif segment.claim is None:
            self._unsigned(segment)
        else:
            hashes = memoryview(self._hashes)[start * CONTENT_HASH_BYTES : end * CONTENT_HASH_BYTES]
            found = hashlib.sha256(hashes).hexdigest()
            hashes.release()
            if found == segment.claim.sha256:
                self._prove(segment, list(range(start, end)))
            else:
                self._mismatch(segment, found)

    def _settle_untidy(self, segment: _Segment, start: int, end: int) -> None:
        """A segment with holes, or with several records under one sequence."""
        candidates: dict[int, list[int]] = {}
        for index in range(start, end):
            several = candidates.setdefault(self._sequences[index], [])
            if all(self._hash(index) != self._hash(other) for other in several):
                several.append(index)
        holes = list(_missing(segment, candidates))
        undeclared = [gap for hole in holes for gap in _without(hole, self._losses)]
        for first, last in undeclared:
            self.findings.lost += last - first + 1
            self.findings.holes.append((first, last))
            self._problem(
                first,
                f"{_named(first, last)} missing: not in the ledger, not dead-lettered, not"
                f" declared lost ({last - first + 1} records)",
            )
        if holes:
            if not undeclared:
                self.findings.unproven.append((segment.first, segment.last))
        elif segment.claim is None:
            self._unsigned(segment)
        else:
            self._choose(segment, segment.claim, list(candidates.values()))

    def _choose(self, segment: _Segment, claim: RangeClaim, candidates: list[list[int]]) -> None:
        """Find the one record per sequence that the source signed; the others are forged."""
        combinations = prod(len(one) for one in candidates)
        crowded = [self._sequences[one[0]] for one in candidates if len(one) > 1]
        if combinations > self._max_candidates:
            self._problem(
                segment.first,
                f"{_named(segment.first, segment.last)} cannot be proven: {combinations}"
                f" combinations of records claim these sequences (crowded from {crowded[0]})",
            )
            return
        found = ""
        for chosen in product(*candidates):
            running = hashlib.sha256()
            for index in chosen:
                running.update(self._hash(index))
            found = running.hexdigest()
            if found == claim.sha256:
                kept = set(chosen)
                for index in (one for several in candidates for one in several):
                    if index not in kept:
                        self.findings.rejected.add(self._hash(index))
                self._prove(segment, list(chosen))
                return
        self._mismatch(segment, found)

    def _prove(self, segment: _Segment, chosen: list[int]) -> None:
        spans = self.findings.spans
        if spans and spans[-1][1] == segment.first - 1:
            spans[-1] = (spans[-1][0], segment.last)
        else:
            spans.append((segment.first, segment.last))
        self.findings.ranges_proven += 1
        for hour, count in Counter(self._hours[index] for index in chosen).items():
            if hour == DEAD_LETTER:
                self.findings.dead_letters += [
                    self._sequences[index] for index in chosen if self._hours[index] == hour
                ]
            elif hour != OTHER:
                self.findings.usage_by_hour[hour] += count
                self.findings.last_by_hour[hour] = next(
                    self._sequences[index]
                    for index in reversed(chosen)
                    if self._hours[index] == hour
                )

    def _unsigned(self, segment: _Segment) -> None:
        """Records that no range covers; excused where the range's carrier is declared lost."""
        carrier = segment.last + 1
        if any(first <= carrier <= last for first, last in self._losses):
            self.findings.unproven.append((segment.first, segment.last))
        else:
            self._problem(
                segment.first,
                f"{_named(segment.first, segment.last)} not covered by any range with a valid"
                " signature",
            )

    def _mismatch(self, segment: _Segment, found: str) -> None:
        signed = segment.claim.sha256 if segment.claim else ""
        self._problem(
            segment.first,
            f"{_named(segment.first, segment.last)} not what the source signed: the ledger's"
            f" content hashes give {found[:12]}…, signed was {signed[:12]}…",
        )

    def _problem(self, sequence: int, text: str) -> None:
        self.findings.problems.append(Problem(sequence, text))

    def _hash(self, index: int) -> bytes:
        return bytes(self._hashes[index * CONTENT_HASH_BYTES : (index + 1) * CONTENT_HASH_BYTES])


def _dense(segment: _Segment, sequences: "array[int]") -> bool:
    """Whether every sequence is there exactly once."""
    return len(sequences) == segment.last - segment.first + 1 and sequences == array(
        "I", range(segment.first, segment.last + 1)
    )


def _missing(segment: _Segment, present: dict[int, list[int]]) -> Iterator[tuple[int, int]]:
    expected = segment.first
    for sequence in present:
        if sequence > expected:
            yield expected, sequence - 1
        expected = sequence + 1
    if expected <= segment.last:
        yield expected, segment.last


def _without(hole: tuple[int, int], losses: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What of a hole no declared loss covers."""
    first, last = hole
    for lost_first, lost_last in sorted(losses):
        if lost_last < first or lost_first > last:
            continue
        if lost_first > first:
            yield first, lost_first - 1
        first = lost_last + 1
    if first <= last:
        yield first, last


def _named(first: int, last: int) -> str:
    return f"sequence {first} is" if first == last else f"sequences {first} to {last} are"
