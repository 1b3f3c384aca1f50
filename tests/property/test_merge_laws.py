"""Merging doors and engines: exactly one event per request, whatever is read when and who dies."""

from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from inference.engine_records import ENGINE_MARK, ENGINE_STOP, MarkRecord
from inference.wire import Record
from schemas.ids import parse_ms, uuid7_unix_ms
from schemas.usage import EnginePartFinishedData, RequestFinishedData
from tests.support.engine_frames import unpacked
from tests.support.host_history import HostHistory
from tests.support.merged_history import merged

SEEDS = st.integers(0, 2**32)


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
        for before, after in pairwise(line):
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
    stopped = {one.process for one in history.written if one.record.kind == ENGINE_STOP}
    assert assert_intervals_close(out) == len(set(history.engines) - stopped)


@given(SEEDS, SEEDS, st.integers(1, 4))
def test_dead_engine_leaves_unaccounted_for_no_more_than_since_its_last_mark(
    seed: int, order: int, kills: int
) -> None:
    """And the step that was in flight at the mark, whose results nobody has seen."""
    history = HostHistory(seed)
    history.play(kills=kills)
    marks = {
        written.process: msgspec.json.decode(record.data, type=MarkRecord)
        for written in history.written
        for record in unpacked(written.record)
        if record.kind == ENGINE_MARK
    }
    for record in merged(history, order):
        if record.kind == "engine.interval":
            one = msgspec.json.decode(record.data)
            mark = marks[one["engine"]]
            since_ns = one["gpus"] * max(one["end_unix_ns"] - mark.unix_ns, 0)
            assert one["unaccounted_ns"] <= since_ns + mark.so_far.open_step_end_ns


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
