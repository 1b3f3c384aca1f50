"""Holds what served hosts have published to what their own doors and engines wrote: pure.

The doors' and engines' spools are the witnesses; nothing here asks the merge what it believes.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from inference.door_records import DoorClose, DoorOpen
from inference.engine_records import EngineBoot, PartRecord
from infra.signing import range_is_signed
from schemas.control import SourceClosed, SourceOpened
from schemas.decode import decode_event
from schemas.envelope import Envelope
from schemas.fleet import EngineInterval, EngineIntervalData, RangePurpose, SignedRange
from schemas.ids import content_hash, parse_ms, range_sha256, uuid7_unix_ms
from schemas.usage import EnginePart, EnginePartFinished, RequestFinished, UsageLost

PartKey = tuple[str, int]
"""An engine and the ordinal of its part."""


@dataclass
class Witness:
    """What the processes of a host wrote into their spools, read from copies of these.

    Attributes:
        opened: By request.
        closed: By request; a door that was killed has not closed some.
        door_of: The door that opened a request.
        parts: As their engine wrote them.
        boots: Engines, by id.
        stopped: Engines that ended in order.
        damaged: Frames that cannot be read.
    """

    opened: dict[str, DoorOpen] = field(default_factory=dict)
    closed: dict[str, DoorClose] = field(default_factory=dict)
    door_of: dict[str, str] = field(default_factory=dict)
    parts: dict[PartKey, PartRecord] = field(default_factory=dict)
    boots: dict[str, EngineBoot] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)
    damaged: list[str] = field(default_factory=list)


class Residue(NamedTuple):
    """An interval, and what of its two identities is left over: zeros, or somebody is wronged."""

    interval: EngineIntervalData
    owned_ns: int
    parts_ns: int

    @property
    def is_zero(self) -> bool:
        return not self.owned_ns and not self.parts_ns


class Story:
    """Everything that some sources have published.

    Attributes:
        findings: What is wrong, in words; empty if every promise was kept.
        finished: The event of each request.
        intervals: Of each engine, in order.
        residues: One for each interval.
        copies: Records that Kafka has more than once, as it may.
        lost: Requests that were declared as lost.
    """

    def __init__(self, values: Sequence[bytes], keys: Mapping[str, str]) -> None:
        self.findings: list[str] = []
        self.copies = 0
        self._values: dict[str, dict[int, bytes]] = defaultdict(dict)
        self._events: dict[str, list[Envelope]] = {}
        for value in values:
            self._take(value)
        for source in sorted(keys.keys() | self._values.keys()):
            self._check_source(source, keys.get(source, ""))
        self.finished: dict[str, RequestFinished] = {}
        self.gpu_ns: dict[PartKey, EnginePart] = {}
        self.intervals: dict[str, list[EngineIntervalData]] = defaultdict(list)
        self.lost = 0
        for event in self.events():
            self._sort(event)
        for intervals in self.intervals.values():
            intervals.sort(key=lambda one: (one.start_unix_ns, one.end_unix_ns))
        self.residues = [
            self._residue(one) for intervals in self.intervals.values() for one in intervals
        ]

    def events(self) -> Iterable[Envelope]:
        """All of them, each once, source by source in their order."""
        for events in self._events.values():
            yield from events

    @property
    def sources(self) -> list[str]:
        return list(self._events)

    def check(self, witness: Witness) -> list[str]:
        """Every finding, once more beside what the processes themselves wrote."""
        self._check_requests(witness)
        self._check_parts(witness)
        for engine, boot in witness.boots.items():
            self._check_engine(boot, engine in witness.stopped)
        for residue in self.residues:
            if not residue.is_zero:
                one = residue.interval
                self._find(
                    f"interval {one.ordinal_start}..{one.ordinal_end} of engine {one.engine}:"
                    f" residues owned={residue.owned_ns} ns, parts={residue.parts_ns} ns"
                )
        self._check_watermarks()
        if self.lost:
            self._find(f"{self.lost} requests were declared as lost")
        self.findings += [f"damaged frame: {one}" for one in witness.damaged]
        return self.findings

    def _find(self, what: str) -> None:
        self.findings.append(what)

    def _take(self, value: bytes) -> None:
        event = decode_event(value)
        values = self._values[event.source]
        if event.sequence not in values:
            values[event.sequence] = value
            return
        self.copies += 1
        if values[event.sequence] != value:
            self._find(f"{event.source} has two events with sequence {event.sequence}")

    def _check_source(self, source: str, key: str) -> None:
        values = self._values[source]
        events = [decode_event(values[number]) for number in sorted(values)]
        self._events[source] = events
        if not key:
            self._find(f"source {source} is not registered")
            return
        if [one.sequence for one in events] != list(range(1, len(events) + 1)):
            holes = sorted(set(range(1, max(values, default=1) + 1)) - values.keys())
            self._find(f"source {source} has holes: {holes[:5]} of {len(holes)}")
            return
        if not isinstance(events[0], SourceOpened) or events[0].data.public_key != key:
            self._find(f"source {source} is not opened with its registered key")
        if not isinstance(events[-1], SourceClosed):
            self._find(f"source {source} is not closed")
        self._check_ranges(source, key, events)

    def _check_ranges(self, source: str, key: str, events: Sequence[Envelope]) -> None:
        hashes = [content_hash(self._values[source][one.sequence]) for one in events]
        covered = 0
        for event in events:
            signed: SignedRange
            purpose: RangePurpose
            if isinstance(event, EngineInterval):
                signed, purpose = event.data.range, "interval"
            elif isinstance(event, SourceClosed):
                signed, purpose = event.data.range, "closed"
            else:
                continue
            if signed.sequence_first != covered + 1:
                self._find(f"a range of {source} does not begin at {covered + 1}: {signed}")
            covered = signed.sequence_last
            if signed.sha256 != range_sha256(hashes[signed.sequence_first - 1 : covered]):
                self._find(f"range of {source} up to {covered} is of other events")
            if not range_is_signed(key, source, purpose, signed):
                self._find(f"range of {source} up to {covered} is not signed with its key")

    def _sort(self, event: Envelope) -> None:
        if isinstance(event, RequestFinished):
            if event.id in self.finished:
                self._find(f"request {event.id} has two events")
            self.finished[event.id] = event
            for part in event.data.parts:
                self._take_part(part)
        elif isinstance(event, EnginePartFinished):
            self._take_part(event.data)
        elif isinstance(event, EngineInterval):
            self.intervals[event.data.engine].append(event.data)
        elif isinstance(event, UsageLost):
            self.lost += event.data.requests

    def _take_part(self, part: EnginePart) -> None:
        key = (part.engine, part.ordinal)
        if key in self.gpu_ns:
            self._find(f"part {part.ordinal} of engine {part.engine} is in two events")
        self.gpu_ns[key] = part

    def _residue(self, one: EngineIntervalData) -> Residue:
        spent_ns = (
            one.attributed_ns
            + one.stall_ns
            + one.idle_ns
            + one.overhead_ns
            + one.startup_ns
            + one.unaccounted_ns
            + one.open_step_end_ns
            - one.open_step_start_ns
        )
        parts_ns = 0
        for ordinal in range(one.ordinal_start + 1, one.ordinal_end + 1):
            part = self.gpu_ns.get((one.engine, ordinal))
            if part is None:
                self._find(f"part {ordinal} of engine {one.engine} is in no event")
            else:
                parts_ns += part.gpu_ns
        accounted_ns = parts_ns + one.in_flight_end_ns - one.in_flight_start_ns
        return Residue(one, one.owned_ns - spent_ns, one.attributed_ns - accounted_ns)

    def _check_requests(self, witness: Witness) -> None:
        for missing in witness.opened.keys() - self.finished.keys():
            self._find(f"request {missing} was opened and has no event")
        for unknown in self.finished.keys() - witness.opened.keys():
            self._find(f"event {unknown} is of a request that no door has opened")
        for request, opened in witness.opened.items():
            event = self.finished.get(request)
            if event is not None and (event.subject, event.data.api_key, event.data.endpoint) != (
                opened.tenant,
                opened.api_key,
                opened.endpoint,
            ):
                self._find(f"event {request} is of {event.subject}, not {opened.tenant}")

    def _check_parts(self, witness: Witness) -> None:
        """What the engine wrote is what was published; only a dead one's parts are composed."""
        for key, record in witness.parts.items():
            part = self.gpu_ns.get(key)
            told = record.part
            if part is None:
                self._find(f"part {key[1]} of engine {key[0]} was written and not published")
            elif (part.gpu_ns, part.generated_tokens, part.prompt_computed_tokens) != (
                told.gpu_ns,
                told.generated_tokens,
                told.prompt_computed_tokens,
            ):
                self._find(f"part {key[1]} of engine {key[0]} is published with other figures")
        composed = Counter(engine for engine, _ in self.gpu_ns.keys() - witness.parts.keys())
        for engine in composed.keys() & witness.stopped:
            self._find(f"engine {engine} ended in order, and {composed[engine]} parts are not its")

    def _check_engine(self, boot: EngineBoot, stopped: bool) -> None:
        intervals = self.intervals.get(boot.engine, [])
        if not intervals:
            self._find(f"engine {boot.engine} has no interval")
            return
        if intervals[0].start_unix_ns != boot.start_unix_ns or intervals[0].ordinal_start:
            self._find(f"the first interval of engine {boot.engine} does not begin at its boot")
        for before, after in pairwise(intervals):
            if _end_of(before) != _start_of(after):
                self._find(
                    f"intervals of engine {boot.engine} do not join:"
                    f" {_end_of(before)} and {_start_of(after)}"
                )
        ordinals = [ordinal for engine, ordinal in self.gpu_ns if engine == boot.engine]
        if max(ordinals, default=0) != intervals[-1].ordinal_end:
            self._find(f"engine {boot.engine} has parts behind its last interval")
        synthesized = [one.synthesized for one in intervals]
        if synthesized != [False] * (len(intervals) - 1) + [not stopped]:
            self._find(
                f"engine {boot.engine} ended {'in order' if stopped else 'by a kill'}, and"
                f" {sum(synthesized)} of its {len(intervals)} intervals are synthesized"
            )

    def _check_watermarks(self) -> None:
        """Behind an interval no event is older than its `oldest_open_at`."""
        for source, events in self._events.items():
            watermark_ms = 0
            for event in events:
                at_ms = uuid7_unix_ms(event.id)
                if at_ms < watermark_ms and not isinstance(event, SourceClosed):
                    self._find(
                        f"{source}: event {event.sequence} ({event.type}) is"
                        f" {watermark_ms - at_ms} ms older than the watermark before it"
                    )
                if isinstance(event, EngineInterval):
                    watermark_ms = max(watermark_ms, parse_ms(event.data.oldest_open_at))


def _end_of(one: EngineIntervalData) -> tuple[int, int, int, int]:
    return one.end_unix_ns, one.ordinal_end, one.in_flight_end_ns, one.open_step_end_ns


def _start_of(one: EngineIntervalData) -> tuple[int, int, int, int]:
    return one.start_unix_ns, one.ordinal_start, one.in_flight_start_ns, one.open_step_start_ns
