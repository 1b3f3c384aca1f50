"""Prefill on one real vLLM engine, decode on another: both halves of a request are in its event."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from inference.door_records import DOOR_CLOSE, DOOR_OPEN, DoorClose, DoorOpen, carried
from inference.engine_records import ENGINE_BOOT, EngineBoot
from inference.merge import Merge
from inference.spool import Position, read_spool
from inference.wire import THE_SOURCE, Record, to_json
from schemas.ids import derived_uuid, uuid7
from schemas.usage import RequestFinishedData
from tests.engine.spool_reading import ALL_RECORDS, frames_apart

pytestmark = pytest.mark.engine
NOW_MS = 1_790_000_000_000
BLOCK = 32
REQUESTS = 6
PREFILLED, GENERATED = 1, 9


def split(folder: Path, role: str) -> dict[str, Any]:
    """Options of an engine that hands its cache on by files, or finds it there."""
    transfer = {
        "kv_connector": "ExampleConnector",
        "kv_role": role,
        "kv_connector_extra_config": {"shared_storage_path": str(folder / "cache")},
    }
    return {"kv_transfer_config": transfer, "block_size": BLOCK, "enable_prefix_caching": False}


def run(engine: Any, prompts: dict[str, list[int]], tokens: int) -> None:
    from vllm import SamplingParams

    for request, prompt in prompts.items():
        options = SamplingParams(max_tokens=tokens, ignore_eos=True, temperature=0.0)
        name = f"cmpl-{carried(request)}-0"
        engine.add_request(name, {"prompt_token_ids": prompt}, options)
    while engine.has_unfinished_requests():
        engine.step()
    engine.engine_core.shutdown()


def boot_of(records: list[Record]) -> EngineBoot:
    assert records[0].kind == ENGINE_BOOT
    return msgspec.json.decode(records[0].data, type=EngineBoot)


def spools(folder: Path) -> list[list[Record]]:
    """What each engine wrote, the one that decodes first."""
    found = [
        frames_apart(read_spool(spool, Position(0, 0), ALL_RECORDS)[0])
        for spool in (folder / "host" / "engines").iterdir()
    ]
    return sorted(found, key=lambda records: boot_of(records).prefills_only)


def door_records(request: str, boot: EngineBoot) -> list[Record]:
    """Of a client that left just before the end, so nobody told it a usage."""
    opened = DoorOpen(
        id=request,
        tenant="acme",
        project="main",
        api_key="key-1",
        endpoint="v1/completions",
        admitted_unix_ns=boot.start_unix_ns,
        admitted_mono_ns=boot.start_unix_ns - boot.unix_less_mono_ns,
    )
    closed = DoorClose(
        id=request,
        http_status=499,
        ending="aborted",
        counted=True,
        delivered_tokens=GENERATED - 1,
        closed_unix_ns=opened.admitted_unix_ns + 1,
        closed_mono_ns=opened.admitted_mono_ns + 1,
        engine_requests=2,
    )
    return [
        Record(DOOR_OPEN, request, THE_SOURCE, to_json(opened)),
        Record(DOOR_CLOSE, request, THE_SOURCE, to_json(closed)),
    ]


def test_halves_of_a_split_request_join_by_id_and_its_prompt_is_sold_once(
    start_engine: Callable[..., Any], tmp_path: Path
) -> None:
    dice = random.Random(11)
    prompts = {
        uuid7(NOW_MS + number, number): [dice.randrange(3, 500) for _ in range(100 + 20 * number)]
        for number in range(REQUESTS)
    }
    run(start_engine(**split(tmp_path, "kv_producer")), prompts, PREFILLED)
    run(start_engine(**split(tmp_path, "kv_consumer")), prompts, GENERATED)
    merge = Merge(0)
    decoding, prefilling = spools(tmp_path)
    for records in (decoding, prefilling):
        for record in records:
            merge.engine_said(boot_of(records).engine, record)
    door = derived_uuid("door", "split")
    for request in prompts:
        for record in door_records(request, boot_of(decoding)):
            merge.door_said(door, record)
    merge.settle()
    out = merge.take()[0]
    assert not [one for one in out if one.kind == "engine.part.finished"]
    finished = {one.id: one.data for one in out if one.kind == "request.finished"}
    assert finished.keys() == prompts.keys()
    engines = {boot_of(decoding).engine, boot_of(prefilling).engine}
    gpu_ns: dict[tuple[str, int], int] = {}
    for request, prompt in prompts.items():
        data = RequestFinishedData.model_validate_json(finished[request])
        first, second = sorted(data.parts, key=lambda one: one.generated_tokens)
        assert {first.engine, second.engine} == engines
        # The second engine has the whole blocks of the prompt from the first.
        assert first.prompt_computed_tokens == len(prompt)
        assert second.prompt_computed_tokens == len(prompt) - (len(prompt) - 1) // BLOCK * BLOCK
        assert (data.input_uncached_tokens, data.input_cache_read_tokens) == (len(prompt), 0)
        assert data.output_text_tokens == data.generated_tokens == GENERATED
        gpu_ns |= {(one.engine, one.ordinal): one.gpu_ns for one in data.parts}
    intervals = [msgspec.json.decode(one.data) for one in out if one.kind == "engine.interval"]
    assert {one["engine"] for one in intervals} == engines
    for one in intervals:
        ordinals = range(one["ordinal_start"] + 1, one["ordinal_end"] + 1)
        parts_ns = sum(gpu_ns[one["engine"], ordinal] for ordinal in ordinals)
        accounted_ns = parts_ns + one["in_flight_end_ns"] - one["in_flight_start_ns"]
        assert one["attributed_ns"] == accounted_ns
