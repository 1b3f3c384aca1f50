"""Reads a host's history as a sidecar does, in rounds of any size, with restarts."""

import random
from collections import defaultdict
from typing import Any

import msgspec

from inference.merge import DoorState, EngineState, Merge, WaitingRequest
from inference.merged_events import EnginePart
from inference.wire import Record
from schemas.units import NS_PER_MS, NS_PER_S
from tests.support.host_history import MONO_OFFSET_NS, HostHistory, Written

LATE_PARTS_MS = 500
ROUND_MS = (1, 30, 300, 3_000)


def merged(history: HostHistory, seed: int, *, restarts: bool = True) -> list[Record]:
    """The events of a history, its engines read before its doors in each round."""
    dice = random.Random(seed)
    reader = _Reader(history)
    out: list[Record] = []
    now_ns = history.written[0].at_ns
    while now_ns < history.now_ns + 10 * NS_PER_S:
        now_ns += dice.choice(ROUND_MS) * NS_PER_MS
        reader.merge.begin(now_ns // NS_PER_MS)
        for door in reader.unread_doors():
            reader.merge.door_found(door)
        for process in [*history.engines, *history.doors]:
            reader.read(process, now_ns)
        reader.merge.settle()
        out += reader.merge.take()[0]
        if restarts and dice.random() < 0.3:
            reader.merge = _restarted(reader.merge)
    merge = reader.merge
    assert [merge.requests, merge.engines, merge.doors, merge.strays] == [{}, {}, {}, []]
    return out


class _Reader:
    def __init__(self, history: HostHistory) -> None:
        self.merge = Merge(LATE_PARTS_MS)
        self._history = history
        self._by_process: dict[str, list[Written]] = defaultdict(list)
        for one in history.written:
            self._by_process[one.process].append(one)
        self._buried: set[str] = set()
        self._begun: set[str] = set()

    def unread_doors(self) -> list[str]:
        """Doors that nothing was read of; their folders are there from the start."""
        return [one for one in self._history.doors if one not in self._begun]

    def read(self, process: str, now_ns: int) -> None:
        """What a process has written by now, and whether it is dead."""
        is_engine = process in self._history.engines
        said = self.merge.engine_said if is_engine else self.merge.door_said
        ahead = self._by_process[process]
        while ahead and ahead[0].at_ns <= now_ns:
            said(process, ahead.pop(0).record)
            self._begun.add(process)
        died_ns = self._history.died_at_ns.get(process)
        if died_ns is None or died_ns > now_ns or process in self._buried:
            return
        self._buried.add(process)
        if is_engine:
            self.merge.engine_died(process)
        else:
            self.merge.door_died(process, now_ns - MONO_OFFSET_NS)


def _restarted(merge: Merge) -> Merge:
    """A merge that goes on from what is stored, as after kill -9 of the sidecar."""
    fresh = Merge(LATE_PARTS_MS)
    fresh.restore(
        {one: _stored(state, WaitingRequest) for one, state in merge.requests.items()},
        {one: _stored(state, EngineState) for one, state in merge.engines.items()},
        {one: _stored(state, DoorState) for one, state in merge.doors.items()},
        dict(merge.finished),
        [_stored(one, EnginePart) for one in merge.strays],
    )
    return fresh


def _stored(state: Any, kind: Any) -> Any:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=kind)
