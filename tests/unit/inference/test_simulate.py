"""A simulation emits valid events, conserves everything, and repeats itself byte for byte."""

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inference.settings import InferenceSettings
from inference.simulate.assign import DEFAULT_ASSIGNMENT, EXAMPLES
from inference.simulate.plan import Plan
from inference.simulate.run import SAMPLE_TRACE, plan_fleet, plan_trace, simulate
from schemas.clock import FixedClock
from schemas.fleet import EngineInterval
from schemas.ids import parse_ms, uuid7_unix_ms
from schemas.topics import MODEL_OF_TYPE, record_key
from schemas.usage import TOKEN_METERS, RequestFinished
from tests.support.simulated import OCTOBER, outbox_rows, rows_at, small_plan, write_trace

FLEET = EXAMPLES / "fleet.yaml"


def quiet(**changes: object) -> InferenceSettings:
    return InferenceSettings.model_validate({"spool_fsync": "never", **changes})


def small_fleet(folder: Path) -> Plan:
    path = folder / "fleet.yaml"
    text = FLEET.read_text().replace("hours: 24", "hours: 3")
    path.write_text(text.replace("requests_per_hour: 200", "requests_per_hour: 400"))
    return plan_fleet(path, seed=11, settings=quiet())


def events_of(folder: Path) -> list[Any]:
    """Every event through its contract: what does not validate fails here."""
    events = []
    for row in outbox_rows(folder):
        kind = json.loads(row.value)["type"]
        event = MODEL_OF_TYPE[kind].model_validate_json(row.value)
        assert json.loads(row.value) == event.model_dump(mode="json"), "composed as modelled"
        assert list(json.loads(row.value)) == list(event.model_dump()), "in the same order"
        assert list(json.loads(row.value)["data"]) == list(event.model_dump()["data"])
        assert row.key.decode() == record_key(kind, event.id, event.source)  # type: ignore[attr-defined]
        events.append(event)
    return events


@pytest.fixture(params=["sample", "fleet"])
def plan(request: pytest.FixtureRequest, tmp_path: Path) -> Plan:
    if request.param == "fleet":
        return small_fleet(tmp_path)
    return plan_trace(SAMPLE_TRACE, seed=7, when=OCTOBER, settings=quiet())


def test_every_event_is_valid_and_the_totals_are_those_of_the_events(
    plan: Plan, tmp_path: Path
) -> None:
    emitted = simulate(plan, tmp_path)
    events = events_of(emitted.folder)
    finished = [event for event in events if isinstance(event, RequestFinished)]
    assert len(finished) == emitted.events == plan.requests
    assert len(events) == emitted.counts.records == sum(one.events for one in emitted.sources)
    for meter in TOKEN_METERS:
        assert emitted.tokens[meter] == sum(getattr(event.data, meter) for event in finished)
    assert emitted.gpu_ns == sum(event.data.gpu_ns for event in finished)
    assert emitted.counts.unexplained_ns() == 0
    assert emitted.gpu_ns == emitted.counts.time["attributed_ns"]
    assert len({event.id for event in events}) == len(events)


def test_tokens_emitted_are_the_tokens_of_the_trace(tmp_path: Path) -> None:
    plan = plan_trace(SAMPLE_TRACE, seed=7, when=OCTOBER, settings=quiet())
    emitted = simulate(plan, tmp_path)
    lines = SAMPLE_TRACE.read_text().splitlines()[1:]
    prompt = sum(int(line.split(",")[1]) for line in lines)
    tokens = emitted.tokens
    assert tokens["input_uncached_tokens"] + tokens["input_cache_read_tokens"] == prompt
    assert tokens["input_cache_read_tokens"] > 0
    assert tokens["output_text_tokens"] == sum(int(line.split(",")[2]) for line in lines)


def test_interval_identity_holds_by_ordinals_for_every_engine(plan: Plan, tmp_path: Path) -> None:
    events = events_of(simulate(plan, tmp_path).folder)
    ns_of: dict[str, dict[int, int]] = defaultdict(dict)
    for event in events:
        if isinstance(event, RequestFinished):
            for part in event.data.parts:
                ns_of[part.engine][part.ordinal] = part.gpu_ns
    intervals = [event.data for event in events if isinstance(event, EngineInterval)]
    assert intervals
    last: dict[str, Any] = {}
    for one in intervals:
        parts = ns_of[one.engine]
        finished = sum(parts[n] for n in range(one.ordinal_start + 1, one.ordinal_end + 1))
        assert finished + one.in_flight_end_ns - one.in_flight_start_ns == one.attributed_ns
        before = last.get(one.engine)
        if before is not None:
            assert one.start_unix_ns == before.end_unix_ns
            assert one.ordinal_start == before.ordinal_end
        last[one.engine] = one
    for engine, parts in ns_of.items():
        assert sorted(parts) == list(range(1, last[engine].ordinal_end + 1))
        assert last[engine].in_flight_end_ns == 0


def test_low_watermark_precedes_every_later_event(plan: Plan, tmp_path: Path) -> None:
    """Behind an interval no event is older than its `oldest_open_at`."""
    behind: dict[str, str] = {}
    for event in events_of(simulate(plan, tmp_path).folder):
        if isinstance(event, RequestFinished):
            assert event.time >= behind.get(event.source, "")
        elif isinstance(event, EngineInterval):
            assert event.data.oldest_open_at >= behind.get(event.source, "")
            behind[event.source] = event.data.oldest_open_at


def test_same_seed_and_input_make_the_same_bytes(tmp_path: Path) -> None:
    first = simulate(small_fleet(tmp_path), tmp_path / "first")
    again = simulate(small_fleet(tmp_path), tmp_path / "again")
    assert outbox_rows(first.folder) == outbox_rows(again.folder)
    assert first.sources == again.sources


def test_number_of_processes_changes_no_byte(tmp_path: Path) -> None:
    trace = write_trace(tmp_path, *rows_at(4_200, step_ms=90, generated=9))
    alone = simulate(small_plan(trace, simulate_workers=1), tmp_path / "alone")
    shared = simulate(small_plan(trace, simulate_workers=3), tmp_path / "shared")
    assert outbox_rows(alone.folder) == outbox_rows(shared.folder)


@pytest.mark.parametrize("change", ["seed", "month", "interval", "input", "assignment"])
def test_another_simulation_has_other_sources_and_ids(tmp_path: Path, change: str) -> None:
    rows = rows_at(5)
    base = small_plan(write_trace(tmp_path, *rows))
    if change == "seed":
        other = small_plan(tmp_path / "trace.csv", seed=8)
    elif change == "month":
        other = small_plan(tmp_path / "trace.csv", when=None)
    elif change == "interval":
        other = small_plan(tmp_path / "trace.csv", interval_s=3)
    elif change == "input":
        other = small_plan(write_trace(tmp_path, *rows[:4], "2023-11-17 00:00:00,1,1"))
    else:
        assignment = tmp_path / "assign.yaml"
        assignment.write_text(DEFAULT_ASSIGNMENT.read_text().replace("weight: 8", "weight: 9"))
        other = plan_trace(tmp_path / "trace.csv", seed=7, assignment=assignment, when=OCTOBER)
    assert {one.source for one in base.replicas}.isdisjoint(one.source for one in other.replicas)
    ids = [{one.id for one in replica.requests()} for replica in (*base.replicas, *other.replicas)]
    assert len(set().union(*ids)) == sum(len(one) for one in ids)


def test_header_only_trace_emits_nothing(tmp_path: Path) -> None:
    emitted = simulate(small_plan(write_trace(tmp_path)), tmp_path)
    assert (emitted.events, emitted.sources, emitted.gpu_ns) == (0, (), 0)
    assert outbox_rows(emitted.folder) == []


@pytest.mark.parametrize("row", ["0,0", "0,5", "5,0", "1,1", "9000000,3", "3,100000"])
def test_single_row_of_any_size_is_one_valid_event(tmp_path: Path, row: str) -> None:
    trace = write_trace(tmp_path, f"2023-11-16 18:00:00.0000000,{row}")
    emitted = simulate(small_plan(trace), tmp_path)
    (event,) = [one for one in events_of(emitted.folder) if isinstance(one, RequestFinished)]
    context, generated = map(int, row.split(","))
    data = event.data
    assert data.input_uncached_tokens + data.input_cache_read_tokens == context
    assert data.output_text_tokens == generated
    assert event.time.startswith("2026-10-01T00:00:00.000")


def test_burst_of_equal_times_is_served_whole(tmp_path: Path) -> None:
    trace = write_trace(tmp_path, *rows_at(300, step_ms=0, context=6_000, generated=600))
    emitted = simulate(small_plan(trace), tmp_path)
    events = events_of(emitted.folder)
    recomputed = sum(
        part.recomputed_tokens
        for event in events
        if isinstance(event, RequestFinished)
        for part in event.data.parts
    )
    assert emitted.events == 300
    assert emitted.counts.unexplained_ns() == 0
    assert recomputed > 0, "the cache overflowed, so somebody was preempted"


def test_events_of_a_rewritten_trace_fall_in_the_month(tmp_path: Path) -> None:
    plan = small_plan(SAMPLE_TRACE)
    emitted = simulate(plan, tmp_path)
    start_ms, end_ms = (int(at.timestamp()) * 1_000 for at in (OCTOBER.start, OCTOBER.end))
    times = [uuid7_unix_ms(event.id) for event in events_of(emitted.folder)]
    assert start_ms == plan.opened_ms == min(times)
    assert max(times) < end_ms


def test_trace_that_ends_now_finishes_its_last_request_now(tmp_path: Path) -> None:
    now_ms = 1_790_000_123_456
    plan = plan_trace(SAMPLE_TRACE, seed=7, when=FixedClock(now_ms * 1_000_000), settings=quiet())
    events = events_of(simulate(plan, tmp_path).folder)
    finished = [one.data.finished_at for one in events if isinstance(one, RequestFinished)]
    assert now_ms - 1 <= parse_ms(max(finished)) <= now_ms
    assert max(uuid7_unix_ms(one.id) for one in events) == now_ms


def test_compressed_trace_says_so_in_its_report(tmp_path: Path) -> None:
    trace = write_trace(tmp_path, "2023-01-01 00:00:00,9,9", "2023-03-05 00:00:00,9,9")
    emitted = simulate(small_plan(trace), tmp_path)
    assert emitted.as_json()["timeline"] == {"shift_ms": 118_281_600_000, "compressed_by": 3}
    assert json.loads((emitted.folder / "emitted.json").read_text())["events"] == 2


def test_refused_requests_have_no_part_and_cost_nothing(tmp_path: Path) -> None:
    events = events_of(simulate(small_fleet(tmp_path), tmp_path).folder)
    refused = [
        one.data
        for one in events
        if isinstance(one, RequestFinished) and one.data.outcome == "refused"
    ]
    assert refused
    assert all(not one.parts and not one.gpu_ns and one.http_status == 429 for one in refused)


def test_interrupted_run_is_replaced_by_the_whole_one(tmp_path: Path) -> None:
    plan = small_plan(SAMPLE_TRACE)
    whole = outbox_rows(simulate(plan, tmp_path).folder)
    (tmp_path / plan.run_key[:16] / plan.replicas[0].name / "outbox.sqlite").unlink()
    assert outbox_rows(simulate(plan, tmp_path).folder) == whole


def test_source_opens_first_and_closes_last_and_owns_its_gpus_between(tmp_path: Path) -> None:
    plan = small_plan(SAMPLE_TRACE)
    plan = replace(plan, replicas=plan.replicas[:1])
    events = events_of(simulate(plan, tmp_path).folder)
    kinds = [event.type.split(".")[2:4] for event in events]
    assert kinds[:2] == [["source", "opened"], ["capacity", "owned"]]
    assert kinds[-2:] == [["capacity", "owned"], ["source", "closed"]]
    assert [one.data.gpus_with_engine for one in (events[1], events[-2])] == [1, 0]
