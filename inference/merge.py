"""Merges what doors and engines of one host say into exactly one event per client request: pure.

In: records of each process's spool, in its order, and who has died. Out: records for the outbox.
Processes may be read in any interleaving that reads engines before doors in each round; whatever
it is, every request that was opened gets exactly one `request.finished`, and every part of an
engine is in exactly one event.

When a request is complete
    It is closed at its door, and as many parts are in as the door says there are. Where some are
    missing (aborted on the way, or the engine died), or the door cannot know, it waits until every
    living engine has marked a moment well after the close without holding it. Where its door died,
    that death takes the place of the close. A part that comes still later, or that no door of this
    host knows, goes out on its own as `engine.part.finished`.

The low watermark of an interval is the earliest of: requests not yet out, and for each living door
the time up to which it has written everything. So what the source sends later is never older.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
)
from inference.engine_account import Interval
from inference.engine_records import (
    ENGINE_BATCH,
    ENGINE_BOOT,
    ENGINE_MARK,
    ENGINE_PART,
    ENGINE_SPAN,
    ENGINE_STOP,
    BatchRecord,
    EngineBoot,
    MarkRecord,
    PartRecord,
    SpanRecord,
)
from inference.merged_events import (
    EnginePart,
    last_interval_of_the_dead,
    part_record,
    parts_of_the_dead,
    request_record,
)
from inference.wire import THE_SOURCE, EngineLabels, Record, interval_record
from schemas.ids import EVENT_TIME_FIRST_MS, derived_entropy, uuid7, uuid7_unix_ms
from schemas.units import NS_PER_MS
from schemas.usage import MAX_PARTS

Kind = Literal["engine", "door"]


class EngineState(msgspec.Struct):
    """A living engine, as far as its spool was read; `after_mark` are its parts since the mark."""

    boot: EngineBoot
    mark: MarkRecord | None = None
    after_mark: list[PartRecord] = []
    ordinal: int = 0
    stopped: bool = False


class DoorState(msgspec.Struct):
    """A living door: everything that it admitted before `written_ms` was read."""

    written_ms: int = 0
    stopped: bool = False


class WaitingRequest(msgspec.Struct):
    """A client request whose event is not out yet.

    `gone_mono_ns` is when its door was found dead, 0 while it lives.
    """

    door: str
    opened: DoorOpen
    close: DoorClose | None = None
    parts: list[EnginePart] = []
    gone_mono_ns: int = 0

    def settled_from_mono_ns(self) -> int:
        """From when on an engine that does not hold it will never add to it; 0: not yet."""
        if self.close is not None and not self.gone_mono_ns:
            return self.close.closed_mono_ns
        return self.gone_mono_ns


@dataclass(slots=True)
class Changed:
    """What must be stored with the events of a round, so that a restart goes on from there."""

    requests: set[str] = field(default_factory=set)
    engines: set[str] = field(default_factory=set)
    doors: set[str] = field(default_factory=set)
    finished: dict[str, str] = field(default_factory=dict)


class Merge:
    """The merging state of one host.

    Attributes:
        requests: Open, by id.
        engines: Living, by id.
        doors: Living, by id.
        finished: Tenant by request, of those already out; the caller forgets the old ones.
        strays: Parts read in this round, whose door may be read later in it.
        changed: Since `take` was last called.
    """

    def __init__(self, late_parts_ms: int) -> None:
        self._late_ns = late_parts_ms * NS_PER_MS
        self.requests: dict[str, WaitingRequest] = {}
        self.engines: dict[str, EngineState] = {}
        self.doors: dict[str, DoorState] = {}
        self.finished: dict[str, str] = {}
        self.strays: list[EnginePart] = []
        self.changed = Changed()
        self._out: list[Record] = []
        self._any_boot: EngineBoot | None = None
        self._watermark_ms = self._begun_ms = EVENT_TIME_FIRST_MS

    def take(self) -> tuple[list[Record], Changed]:
        """The events since the last call, and what has changed."""
        out, changed = self._out, self.changed
        self._out, self.changed = [], Changed()
        return out, changed

    def restore(
        self,
        requests: dict[str, WaitingRequest],
        engines: dict[str, EngineState],
        doors: dict[str, DoorState],
        finished: dict[str, str],
        strays: list[EnginePart],
    ) -> None:
        """Go on from what was stored."""
        self.requests, self.engines, self.doors = requests, engines, doors
        self.finished, self.strays = finished, strays
        for state in engines.values():
            self._any_boot = state.boot

    def begin(self, now_ms: int) -> None:
        """A round begins: doors that are found later admit nobody before this time."""
        self._begun_ms = now_ms - self._late_ns // NS_PER_MS

    def door_found(self, door: str) -> None:
        """A door's spool is there; until it is read, nobody knows whom it has admitted."""
        if door not in self.doors:
            self.doors[door] = DoorState(self._watermark_ms)

    # What was read.

    def engine_said(self, engine: str, record: Record) -> None:
        """The next record of an engine's spool."""
        if record.kind == ENGINE_BATCH:
            for kind, event_id, data in _BATCH(record.data).records:
                self.engine_said(engine, Record(kind, event_id, record.subject, bytes(data)))
        elif record.kind == ENGINE_BOOT:
            self._any_boot = msgspec.json.decode(record.data, type=EngineBoot)
            self.engines[engine] = EngineState(self._any_boot)
        elif engine in self.engines:
            self._engine_said(self.engines[engine], record)
        # Else its first frame was damaged, which is declared as a loss: nobody knows its GPUs.
        self.changed.engines.add(engine)

    def door_said(self, door: str, record: Record) -> None:
        """The next record of a door's spool."""
        if record.kind == DOOR_OPEN:
            opened = _OPEN(record.data)
            self._written(door, opened.admitted_unix_ns)
            if opened.id not in self.requests and opened.id not in self.finished:
                self.requests[opened.id] = WaitingRequest(door, opened)
                self.changed.requests.add(opened.id)
        elif record.kind == DOOR_CLOSE:
            close = _CLOSE(record.data)
            waiting = self.requests.get(close.id)
            if waiting is not None and waiting.close is None:
                waiting.close = close
                self.changed.requests.add(close.id)
        elif record.kind == DOOR_MARK:
            self._written(door, msgspec.json.decode(record.data, type=DoorMark).unix_ns)
        elif record.kind == DOOR_BOOT:
            self._written(door, msgspec.json.decode(record.data, type=DoorBoot).booted_unix_ns)
        elif record.kind == DOOR_STOP:
            self._written(door, 0)
            self.doors[door].stopped = True
        else:
            self._out.append(record)

    def engine_died(self, engine: str) -> None:
        """An engine's spool is read to its end, and nobody writes it any more."""
        state = self.engines.pop(engine, None)
        if state is None:
            return
        self.changed.engines.add(engine)
        if state.stopped or state.mark is None:
            return
        parts = parts_of_the_dead(state.boot, state.mark, state.after_mark, state.ordinal)
        finished = list(state.after_mark)
        for part in parts:
            self._part(state, part)
        interval, unaccounted_ns = last_interval_of_the_dead(
            state.boot, state.mark, finished, state.ordinal
        )
        self._interval(state.boot, interval, unaccounted_ns=unaccounted_ns)

    def door_died(self, door: str, mono_ns: int) -> None:
        """A door's spool is read to its end, and nobody writes it any more."""
        if self.doors.pop(door, None) is not None:
            self.changed.doors.add(door)
        for event_id, waiting in self.requests.items():
            if waiting.door == door and not waiting.gone_mono_ns:
                waiting.gone_mono_ns = mono_ns
                self.changed.requests.add(event_id)

    def settle(self) -> None:
        """At the end of a round, after engines and then doors were read: what is complete now?"""
        strays, self.strays = self.strays, []
        for part in strays:
            self._give(part, last_chance=True)
        for event_id in [one for one in self.requests if self._is_complete(one)]:
            self._finish(event_id)

    # How it is merged.

    def _engine_said(self, state: EngineState, record: Record) -> None:
        if record.kind == ENGINE_PART:
            self._part(state, _PART(record.data))
        elif record.kind == ENGINE_SPAN:
            self._interval(state.boot, _SPAN(record.data).interval)
        elif record.kind == ENGINE_MARK:
            state.mark, state.after_mark = _MARK(record.data), []
        elif record.kind == ENGINE_STOP:
            state.stopped = True
        else:
            self._out.append(record)

    def _written(self, door: str, unix_ns: int) -> None:
        state = self.doors.setdefault(door, DoorState())
        state.written_ms = max(state.written_ms, unix_ns // NS_PER_MS)
        self.changed.doors.add(door)

    def _part(self, state: EngineState, record: PartRecord) -> None:
        state.ordinal = record.part.ordinal
        state.after_mark.append(record)
        self._give(EnginePart(state.boot, record), last_chance=False)

    def _give(self, part: EnginePart, *, last_chance: bool) -> None:
        """To its request; its door may be read later in this round."""
        request = part.record.facts.request
        waiting = self.requests.get(request)
        if waiting is not None:
            waiting.parts.append(part)
            self.changed.requests.add(request)
        elif request in self.finished:
            self._out.append(part_record(part, self.finished[request]))
        elif last_chance or not request:
            self._out.append(part_record(part, THE_SOURCE))
        else:
            self.strays.append(part)

    def _is_complete(self, event_id: str) -> bool:
        waiting = self.requests[event_id]
        close = waiting.close
        if close is not None and len(waiting.parts) >= close.engine_requests and _knows(close):
            return True
        since_ns = waiting.settled_from_mono_ns()
        return since_ns > 0 and all(
            _has_passed(state, event_id, since_ns + self._late_ns)
            for state in self.engines.values()
            if not state.stopped
        )

    def _finish(self, event_id: str) -> None:
        waiting = self.requests.pop(event_id)
        parts = sorted(waiting.parts, key=lambda one: (one.boot.engine, one.record.part.ordinal))
        fitting, others = parts[:MAX_PARTS], parts[MAX_PARTS:]
        tenant = waiting.opened.tenant
        self._out.append(
            request_record(waiting.opened, waiting.close, fitting, self._any_boot),
        )
        self._out += [part_record(part, tenant) for part in others]
        self.finished[event_id] = tenant
        self.changed.finished[event_id] = tenant
        self.changed.requests.add(event_id)

    def _interval(self, boot: EngineBoot, interval: Interval, *, unaccounted_ns: int = -1) -> None:
        """Publish an interval; one with an account of what is unaccounted for is synthesized."""
        end_ms = interval.end_ns // NS_PER_MS
        self._watermark_ms = max(self._watermark_ms, min(self._earliest_ms(), end_ms))
        oldest_ms = min(self._watermark_ms, interval.oldest_open_ms, end_ms)
        labels = EngineLabels(
            boot.engine, boot.model, boot.replica, boot.region, boot.gpu_type, boot.gpus
        )
        synthesized = unaccounted_ns >= 0
        entropy = derived_entropy(boot.engine, "interval", str(interval.end_ns), str(synthesized))
        self._out.append(
            interval_record(
                uuid7(end_ms, entropy),
                labels,
                interval._replace(oldest_open_ms=oldest_ms),
                unaccounted_ns=max(unaccounted_ns, 0),
                synthesized=synthesized,
            )
        )

    def _earliest_ms(self) -> int:
        """The earliest time that an event yet to come can have, as far as is known."""
        return min(self._begun_ms, min(self._open_times(), default=self._begun_ms))

    def _open_times(self) -> Iterator[int]:
        for event_id in self.requests:
            yield uuid7_unix_ms(event_id)
        for part in self.strays:
            yield uuid7_unix_ms(part.record.facts.request)
        for state in self.doors.values():
            if not state.stopped:
                yield state.written_ms


def _knows(close: DoorClose) -> bool:
    """Whether the door was told how many parts there are; before a proxy it only guesses."""
    return close.counted or not close.engine_requests


def _has_passed(state: EngineState, event_id: str, mono_ns: int) -> bool:
    """Whether an engine lives beyond a moment and does not hold the request."""
    mark = state.mark
    if mark is None or mark.unix_ns - state.boot.unix_less_mono_ns < mono_ns:
        return False
    return all(one.facts.request != event_id for one in mark.open)


_BATCH: Callable[[bytes], BatchRecord] = msgspec.json.Decoder(BatchRecord).decode
_PART: Callable[[bytes], PartRecord] = msgspec.json.Decoder(PartRecord).decode
_SPAN: Callable[[bytes], SpanRecord] = msgspec.json.Decoder(SpanRecord).decode
_MARK: Callable[[bytes], MarkRecord] = msgspec.json.Decoder(MarkRecord).decode
_OPEN: Callable[[bytes], DoorOpen] = msgspec.json.Decoder(DoorOpen).decode
_CLOSE: Callable[[bytes], DoorClose] = msgspec.json.Decoder(DoorClose).decode
