"""Who is billed for what: samples, prompts, stop strings, clients that left, deaths, late parts."""

import json
from typing import Any

import msgspec
import pytest

from inference.door_records import (
    DOOR_CLOSE,
    DOOR_OPEN,
    ClientUsage,
    DoorClose,
    DoorEnding,
    DoorOpen,
    carried,
)
from inference.engine_account import FinishedPart
from inference.engine_records import (
    ENGINE_BOOT,
    ENGINE_PART,
    ENGINE_STOP,
    PartRecord,
    RequestFacts,
)
from inference.merge import Merge
from inference.wire import THE_SOURCE, Record, to_json
from schemas.ids import derived_uuid, uuid7
from schemas.units import NS_PER_MS
from schemas.usage import MAX_PARTS, EnginePartFinishedData, RequestFinishedData
from tests.support.engine_boots import engine_boot
from tests.support.host_history import MONO_OFFSET_NS, START_NS

ENGINE = derived_uuid("engine", "merge")
DOOR = derived_uuid("door", "merge")
REQUEST = uuid7(START_NS // NS_PER_MS, 7)
BOOT = engine_boot(ENGINE, start_ns=START_NS, unix_less_mono_ns=MONO_OFFSET_NS)


def part(
    ordinal: int,
    name: str = "",
    *,
    generated: int = 10,
    prompt: int = 6,
    cached: int = 0,
    request: str = REQUEST,
    **facts: Any,
) -> Record:
    """A part of `REQUEST`, one sample of its one prompt unless it is named otherwise."""
    name = name or f"cmpl-{carried(request)}-0"
    at_ns = START_NS + 100 + ordinal
    account = FinishedPart(
        request=name,
        ordinal=ordinal,
        gpu_ns=1_000 * ordinal,
        gpu_prefill_ns=0,
        gpu_recompute_ns=0,
        generated_tokens=generated,
        prompt_computed_tokens=prompt - cached,
        recomputed_tokens=0,
        decode_scheduled_tokens=max(generated - 1, 0),
        drafts_rejected_tokens=0,
        discarded_tokens=0,
        added_ns=START_NS + 10,
        first_scheduled_ns=START_NS + 20,
        first_token_ns=START_NS + 30,
        finished_ns=at_ns,
    )
    known = RequestFacts(request, name, prompt, cached, **facts)
    record = PartRecord(ENGINE, at_ns, known, account)
    return Record(ENGINE_PART, request or ENGINE, THE_SOURCE, to_json(record))


def opened() -> Record:
    data = DoorOpen(
        id=REQUEST,
        tenant="acme",
        project="main",
        api_key="key-1",
        endpoint="v1/completions",
        admitted_unix_ns=START_NS,
        admitted_mono_ns=START_NS - MONO_OFFSET_NS,
    )
    return Record(DOOR_OPEN, REQUEST, THE_SOURCE, to_json(data))


def closed(ending: DoorEnding = "finished", **changes: Any) -> Record:
    usual: dict[str, Any] = {
        "id": REQUEST,
        "http_status": 200,
        "ending": ending,
        "finish_reason": "stop",
        "counted": True,
        "closed_unix_ns": START_NS + 500,
        "closed_mono_ns": START_NS + 500 - MONO_OFFSET_NS,
        "engine_requests": 1,
    }
    return Record(DOOR_CLOSE, REQUEST, THE_SOURCE, to_json(DoorClose(**usual | changes)))


def events(*parts: Record, close: Record | None = None, stopped: bool = False) -> list[Record]:
    """What one round makes of a request with these parts, of an engine that goes on or stops."""
    merge = Merge(0)
    merge.engine_said(ENGINE, Record(ENGINE_BOOT, ENGINE, THE_SOURCE, to_json(BOOT)))
    for one in parts:
        merge.engine_said(ENGINE, one)
    if stopped:
        merge.engine_said(ENGINE, Record(ENGINE_STOP, ENGINE, THE_SOURCE, b"{}"))
    merge.door_said(DOOR, opened())
    if close is not None:
        merge.door_said(DOOR, close)
    merge.settle()
    return merge.take()[0]


def billed(*parts: Record, close: Record, stopped: bool = False) -> RequestFinishedData:
    (event,) = events(*parts, close=close, stopped=stopped)
    return RequestFinishedData.model_validate_json(event.data)


def tokens(data: RequestFinishedData) -> tuple[int, int, int, int, int]:
    return (
        data.input_uncached_tokens,
        data.input_cache_read_tokens,
        data.output_text_tokens,
        data.generated_tokens,
        data.hidden_tokens,
    )


def test_usage_of_the_client_is_what_counts() -> None:
    usage = ClientUsage(input_tokens=6, output_tokens=10, reasoning_tokens=4)
    data = billed(part(1), close=closed(usage=usage, delivered_tokens=10))
    assert tokens(data) == (6, 0, 6, 10, 0)
    assert data.output_reasoning_tokens == 4
    assert (data.outcome, data.gpu_ns, len(data.parts)) == ("stop", 1_000, 1)
    assert (data.queue_ns, data.first_token_ns, data.total_ns) == (20, 0, 500)


def test_what_came_behind_a_stop_string_is_hidden() -> None:
    usage = ClientUsage(input_tokens=6, output_tokens=7)
    data = billed(part(1, generated=10), close=closed(usage=usage, delivered_tokens=7))
    assert tokens(data) == (6, 0, 7, 10, 3)


def test_samples_share_one_prompt_and_what_the_first_of_them_found_in_the_cache() -> None:
    base = f"cmpl-{carried(REQUEST)}-0"
    samples = [part(n, f"{n}_{base}", cached=2 if n == 1 else 6) for n in (1, 2, 3)]
    data = billed(*samples, close=closed(engine_requests=3, delivered_tokens=30))
    assert tokens(data) == (4, 2, 30, 30, 0)


def test_prompt_is_told_by_who_prefilled_it_and_output_by_who_decoded_it() -> None:
    merge = Merge(0)
    other = derived_uuid("engine", "prefill")
    split = msgspec.structs.replace(BOOT, engine=other, prefills_only=True)
    merge.engine_said(other, Record(ENGINE_BOOT, other, THE_SOURCE, to_json(split)))
    merge.engine_said(other, part(1, "a-prefill", generated=1, prompt=40, cached=16))
    merge.engine_said(ENGINE, Record(ENGINE_BOOT, ENGINE, THE_SOURCE, to_json(BOOT)))
    merge.engine_said(ENGINE, part(1, "a-decode", generated=9, prompt=40, cached=32))
    merge.door_said(DOOR, opened())
    merge.door_said(DOOR, closed("aborted", engine_requests=2))
    merge.settle()
    (event,) = merge.take()[0]
    data = RequestFinishedData.model_validate_json(event.data)
    assert (data.input_uncached_tokens, data.input_cache_read_tokens) == (24, 16)
    assert (data.output_text_tokens, data.generated_tokens) == (9, 9)
    assert {one.engine for one in data.parts} == {ENGINE, other}


def test_several_prompts_add_up() -> None:
    prompts = [part(n, f"cmpl-{carried(REQUEST)}-{n}", prompt=5 * n) for n in (1, 2)]
    data = billed(*prompts, close=closed(engine_requests=2, delivered_tokens=20))
    assert tokens(data) == (15, 0, 20, 20, 0)


def test_client_that_left_pays_for_what_was_generated() -> None:
    gone = closed("aborted", http_status=499, finish_reason="", delivered_tokens=3)
    data = billed(part(1, generated=8, finish_reason="abort"), close=gone)
    assert (data.outcome, data.http_status, data.finish_reason) == ("client_gone", 499, "abort")
    assert tokens(data) == (6, 0, 8, 8, 0)
    assert data.delivered_tokens == 3


@pytest.mark.parametrize("ending", ["finished", "aborted", "failed"])
@pytest.mark.parametrize("chunks", [1, 25])
def test_chunks_that_nobody_counted_never_decide_what_is_billed(
    ending: DoorEnding, chunks: int
) -> None:
    close = closed(ending, counted=False, delivered_tokens=chunks)
    data = billed(part(1), close=close, stopped=True)
    assert tokens(data)[2:] == (10, 10, 0)
    assert data.delivered_tokens == min(chunks, 10)


def test_stop_string_without_usage_is_counted_as_the_hook_counted_it() -> None:
    data = billed(part(1), close=closed(delivered_tokens=7))
    assert tokens(data)[2:] == (7, 10, 3)


def test_refused_request_has_no_tokens_and_no_part() -> None:
    refused = closed("refused", http_status=429, finish_reason="", engine_requests=0)
    data = billed(close=refused)
    assert (data.outcome, data.http_status, data.gpus) == ("refused", 429, 0)
    assert tokens(data) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize(("parts", "outcome"), [(1, "error"), (0, "engine_death")])
def test_failed_answer_is_the_engines_death_where_its_part_is_missing(
    parts: int, outcome: str
) -> None:
    merge = Merge(0)
    merge.engine_said(ENGINE, Record(ENGINE_BOOT, ENGINE, THE_SOURCE, to_json(BOOT)))
    for ordinal in range(1, parts + 1):
        merge.engine_said(ENGINE, part(ordinal))
    merge.door_said(DOOR, opened())
    merge.door_said(DOOR, closed("failed", http_status=500, finish_reason=""))
    merge.engine_died(ENGINE)
    merge.settle()
    (event,) = merge.take()[0]
    assert json.loads(event.data)["outcome"] == outcome


def test_request_waits_for_its_parts() -> None:
    assert events(part(1), close=closed(engine_requests=2)) == []
    assert events(close=closed()) == []
    # Before a proxy a door does not know how many engines a request visits.
    assert events(part(1), close=closed(counted=False)) == []
    assert events(part(1)) == []


def test_parts_beyond_the_bound_go_out_on_their_own() -> None:
    beams = [part(n, f"cmpl-{carried(REQUEST)}-beam-{n}") for n in range(1, MAX_PARTS + 4)]
    usage = ClientUsage(input_tokens=6, output_tokens=10)
    first, *others = events(*beams, close=closed(usage=usage, engine_requests=len(beams)))
    data = RequestFinishedData.model_validate_json(first.data)
    assert len(data.parts) == MAX_PARTS
    assert [one.kind for one in others] == ["engine.part.finished"] * 3
    assert {one.subject for one in others} == {"acme"}


def test_part_that_comes_after_its_event_goes_to_the_same_tenant() -> None:
    merge = Merge(0)
    merge.engine_said(ENGINE, Record(ENGINE_BOOT, ENGINE, THE_SOURCE, to_json(BOOT)))
    merge.door_said(DOOR, opened())
    merge.door_said(DOOR, closed("refused", http_status=400, engine_requests=0))
    merge.settle()
    merge.engine_said(ENGINE, part(1))
    merge.settle()
    _, late = merge.take()[0]
    data = EnginePartFinishedData.model_validate_json(late.data)
    assert (late.kind, late.subject, data.request) == ("engine.part.finished", "acme", REQUEST)
    assert late.id[:13] == REQUEST[:13]


def test_part_that_no_door_knows_is_the_operators() -> None:
    merge = Merge(0)
    merge.engine_said(ENGINE, Record(ENGINE_BOOT, ENGINE, THE_SOURCE, to_json(BOOT)))
    merge.engine_said(ENGINE, part(1))
    merge.engine_said(ENGINE, part(2, "warm-up", request=""))
    merge.settle()
    found = merge.take()[0]
    assert [one.subject for one in found] == [THE_SOURCE, THE_SOURCE]
    for one in found:
        assert msgspec.json.decode(one.data)["gpu_ns"]
        EnginePartFinishedData.model_validate_json(one.data)


def test_names_from_a_client_never_make_an_invalid_event() -> None:
    bad = msgspec.structs.replace(
        msgspec.json.decode(opened().data, type=DoorOpen), model="no such \u00e9 model"
    )
    merge = Merge(0)
    merge.door_said(DOOR, Record(DOOR_OPEN, REQUEST, THE_SOURCE, to_json(bad)))
    merge.door_said(DOOR, closed("refused", http_status=404, engine_requests=0))
    merge.settle()
    (event,) = merge.take()[0]
    assert RequestFinishedData.model_validate_json(event.data).model == "unknown"
