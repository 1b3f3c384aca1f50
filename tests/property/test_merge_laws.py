"""Merging doors and engines: exactly one event per request, whatever is read when and who dies."""

import random
from collections import Counter, defaultdict
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from inference.merge import DoorState, EngineState, Merge, WaitingRequest
from inference.merged_events import EnginePart
from inference.wire import Record
from schemas.ids import parse_ms, uuid7_unix_ms
from schemas.units import NS_PER_MS, NS_PER_S
from schemas.usage import EnginePartFinishedData, RequestFinishedData
from tests.support.host_history import MONO_OFFSET_NS, HostHistory, Written

SEEDS = st.integers(0, 2**32)


def again[State](state: State, kind: Any) -> State:
    """What comes back when it was stored."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=kind)


def restarted(merge: Merge) -> Merge:
    """A merge that goes on from what is stored, as after kill -9 of the sidecar."""
    fresh = Merge(500)
    fresh.restore(
        {one: again(state, WaitingRequest) for one, state in merge.requests.items()},
        {one: again(state, EngineState) for one, state in merge.engines.items()},
        {one: again(state, DoorState) for one, state in merge.doors.items()},
        dict(merge.finished),
        [again(one, EnginePart) for one in merge.strays],
    )
    return fresh


def merged(history: HostHistory, seed: int, *, restarts: bool = True) -> list[Record]:
    """The events of a history, read in rounds of any size, engines before doors in each."""
    dice = random.Random(seed)
    merge = Merge(500)
    read: dict[str, int] = defaultdict(int)
    by_process: dict[str, list[Written]] = defaultdict(list)
    for one in history.written:
        by_process[one.process].append(one)
    buried: set[str] = set()
    out: list[Record] = []
    end_ns = history.now_ns + 10 * NS_PER_S
    now_ns = history.written[0].at_ns
    while now_ns < end_ns:
        now_ns += dice.choice([1, 30, 300, 3_000]) * NS_PER_MS
        merge.begin(now_ns // NS_PER_MS)
        for process in [*history.engines, *history.doors]:
            said = merge.engine_said if process in history.engines else merge.door_said
            while read[process] < len(by_process[process]):
                one = by_process[process][read[process]]
                if one.at_ns > now_ns:
                    break
                said(process, one.record)
                read[process] += 1
            died_ns = history.died_at_ns.get(process)
            if died_ns is not None and died_ns <= now_ns and process not in buried:
                buried.add(process)
                if process in history.engines:
                    merge.engine_died(process)
                else:
                    merge.door_died(process, now_ns - MONO_OFFSET_NS)
        merge.settle()
        out += merge.take()[0]
        if restarts and dice.random() < 0.3:
            merge = restarted(merge)
    assert not merge.requests
    assert not merge.engines
    assert not merge.doors
    assert not merge.strays
    return out


def parts_of(out: list[Record]) -> dict[str, dict[int, int]]:
    """gpu_ns by engine and ordinal, each part in one event; every event is a valid one."""
    found: dict[str, dict[int, int]] = defaultdict(dict)
    for record in out:
        parts: list[Any] = []
        if record.kind == "request.finished":
            parts = list(RequestFinishedData.model_validate_json(record.data).parts)
        elif record.kind == "engine.part.finished":
            parts = [EnginePartFinishedData.model_validate_json(record.data)]
        for part in parts:
            assert part.ordinal not in found[part.engine]
            found[part.engine][part.ordinal] = part.gpu_ns
    return found


def assert_intervals_close(out: list[Record]) -> int:
    """Both identities of every interval; how many were synthesized."""
    parts = parts_of(out)
    intervals = [msgspec.json.decode(one.data) for one in out if one.kind == "engine.interval"]
    for one in intervals:
        spent = sum(
            one[f"{name}_ns"]
            for name in ("attributed", "stall", "idle", "overhead", "startup", "unaccounted")
        )
        assert one["owned_ns"] == spent + one["open_step_end_ns"] - one["open_step_start_ns"]
        assert one["owned_ns"] == one["gpus"] * (one["end_unix_ns"] - one["start_unix_ns"])
        assert one["unaccounted_ns"] >= 0
        assert one["attributed_ns"] >= 0
        ordinals = range(one["ordinal_start"] + 1, one["ordinal_end"] + 1)
        parts_ns = sum(parts[one["engine"]][ordinal] for ordinal in ordinals)
        accounted = parts_ns + one["in_flight_end_ns"] - one["in_flight_start_ns"]
        assert one["attributed_ns"] == accounted
    for engine in {one["engine"] for one in intervals}:
        line = [one for one in intervals if one["engine"] == engine]
        for before, after in zip(line, line[1:], strict=False):
            assert before["end_unix_ns"] == after["start_unix_ns"]
            assert before["ordinal_end"] == after["ordinal_start"]
            assert before["in_flight_end_ns"] == after["in_flight_start_ns"]
        assert line[-1]["in_flight_end_ns"] == 0
        assert line[-1]["ordinal_end"] == len(parts[engine])
    return sum(one["synthesized"] for one in intervals)


def assert_one_event_each(history: HostHistory, out: list[Record]) -> None:
    finished = Counter(one.id for one in out if one.kind == "request.finished")
    assert finished == Counter(list(history.opened))
    for one in out:
        if one.kind == "request.finished":
            assert one.subject == history.opened[one.id].tenant


@given(SEEDS, SEEDS)
def test_every_request_has_one_event_and_every_nanosecond_one_owner(seed: int, order: int) -> None:
    history = HostHistory(seed)
    history.play()
    out = merged(history, order)
    assert_one_event_each(history, out)
    assert assert_intervals_close(out) == 0


@given(SEEDS, SEEDS, st.integers(1, 4))
def test_death_of_engines_and_doors_loses_and_doubles_nothing(
    seed: int, order: int, kills: int
) -> None:
    history = HostHistory(seed)
    history.play(kills=kills)
    out = merged(history, order)
    assert_one_event_each(history, out)
    killed = set(history.engines) - history.stopped
    assert assert_intervals_close(out) == len(killed)


@given(SEEDS, SEEDS, st.integers(0, 4))
def test_what_comes_after_an_interval_is_not_older_than_its_low_watermark(
    seed: int, order: int, kills: int
) -> None:
    history = HostHistory(seed)
    history.play(kills=kills)
    watermark_ms = 0
    for record in merged(history, order):
        if record.kind == "request.finished":
            assert uuid7_unix_ms(record.id) >= watermark_ms
        elif record.kind == "engine.interval":
            watermark_ms = parse_ms(msgspec.json.decode(record.data)["oldest_open_at"])


@given(SEEDS, SEEDS, SEEDS)
def test_order_of_reading_and_restarts_change_no_request(seed: int, one: int, other: int) -> None:
    history = HostHistory(seed)
    history.play(kills=1)

    def requests(order: int, *, restarts: bool) -> dict[str, Any]:
        events = {
            record.id: msgspec.json.decode(record.data)
            for record in merged(history, order, restarts=restarts)
            if record.kind == "request.finished"
        }
        # What names an engine where a request reached none is whichever was seen last.
        for event in events.values():
            event.pop("replica")
        return events

    assert requests(one, restarts=False) == requests(other, restarts=True)


@given(SEEDS)
def test_endings_become_outcomes(seed: int) -> None:
    history = HostHistory(seed)
    history.play()
    wanted = {"finished": "length", "aborted": "client_gone", "refused": "refused"}
    for record in merged(history, seed):
        if record.kind == "request.finished":
            outcome = msgspec.json.decode(record.data)["outcome"]
            assert outcome == wanted[history.endings[record.id]]
