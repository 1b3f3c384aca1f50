"""A real vLLM engine under mixed load: its books close to the nanosecond."""

import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from inference.door_records import carried
from inference.queued_steps import step_of
from inference.spool import Position, read_spool, segment_numbers, segment_path
from schemas.errors import SettingsError
from schemas.ids import uuid7
from tests.engine.spool_reading import (
    ALL_RECORDS,
    Books,
    books_of,
    frames_apart,
    read_books,
    residues_ns,
)

pytestmark = pytest.mark.engine
REQUESTS = 300
MORE_THAN_FIT = 120
"""Into a spool of 64 KiB."""
NOW_MS = 1_790_000_000_000
SHARED = list(range(10, 160))
"""A prompt that several requests begin with, longer than a block: the cache holds it at last."""


class Load:
    """Seeded mixed requests with aborts, driven step by step; knows what each must be billed."""

    def __init__(self, engine: Any, seed: int) -> None:
        self.engine = engine
        self.random = random.Random(seed)
        self.prompts: dict[str, int] = {}
        self.seen: dict[str, int] = {}
        self.aborted: set[str] = set()
        self.open: set[str] = set()

    def add(self, number: int) -> None:
        from vllm import SamplingParams

        dice = self.random
        prompt = [dice.randrange(3, 500) for _ in range(dice.randint(1, 120))]
        if dice.random() < 0.3:
            prompt = SHARED + prompt[:20]
        name = f"cmpl-{carried(uuid7(NOW_MS + number, number))}-0-{number:08x}"
        options = SamplingParams(
            max_tokens=dice.randint(1, 40),
            ignore_eos=dice.random() < 0.8,
            temperature=1.0,
        )
        self.engine.add_request(name, {"prompt_token_ids": prompt}, options)
        self.prompts[name] = len(prompt)
        self.seen[name] = 0
        self.open.add(name)

    def step(self) -> None:
        for output in self.engine.step():
            self.seen[output.request_id] = len(output.outputs[0].token_ids)
            if output.finished:
                self.open.discard(output.request_id)

    def abort_one(self) -> None:
        name = self.random.choice(sorted(self.open))
        self.engine.abort_request([name])
        self.aborted.add(name)
        self.open.discard(name)

    def run(self, requests: int) -> None:
        added = len(self.prompts)
        while added < requests or self.open:
            while added < requests and len(self.open) < 24 and self.random.random() < 0.7:
                self.add(added)
                added += 1
            if self.open and self.random.random() < 0.08:
                self.abort_one()
            self.step()


def assert_books_close(books: Books, load: Load) -> None:
    assert books.kinds[0] == "engine.boot"
    assert books.kinds[-1] == "engine.stop"
    assert [mark.fault for mark in books.marks if mark.faults] == []
    residues = residues_ns(books)
    assert residues
    assert set(residues) == {(0, 0)}
    ends = [(span.interval.end_ns, span.interval.ordinal_end) for span in books.spans]
    starts = [(span.interval.start_ns, span.interval.ordinal_start) for span in books.spans]
    assert starts[1:] == ends[:-1]
    assert ends[-1][1] == len(books.parts)
    assert [part.part.ordinal for part in books.parts] == list(range(1, len(books.parts) + 1))
    assert len(books.parts) == len(load.prompts)
    for record in books.parts:
        facts, part = record.facts, record.part
        assert carried(facts.request) in facts.engine_request
        assert part.decode_scheduled_tokens == (
            max(part.generated_tokens - 1, 0) + part.drafts_rejected_tokens + part.discarded_tokens
        )


def seen_of(load: Load, engine_request: str) -> tuple[str, int]:
    """The request as the client named it: vLLM appends a suffix of its own."""
    (name,) = [one for one in load.prompts if engine_request.startswith(one)]
    return name, load.seen[name]


def assert_tokens_as_the_client_saw_them(books: Books, load: Load) -> None:
    for record in books.parts:
        facts, part = record.facts, record.part
        name, seen = seen_of(load, facts.engine_request)
        assert facts.prompt_tokens == load.prompts[name]
        if name in load.aborted:
            assert part.generated_tokens >= seen
        else:
            assert part.generated_tokens == seen
            # What the cache did not hold was computed once, and after preemptions again.
            assert part.prompt_computed_tokens + facts.cached_tokens == facts.prompt_tokens


CROWDED = {
    "num_gpu_blocks_override": 20,
    "max_model_len": 512,
    "max_num_batched_tokens": 64,
    "max_num_seqs": 16,
    "block_size": 32,
}
"""Too few blocks for those who run, and prompts that do not fit into one step."""


def run_load(start: Callable[..., Any], folder: Path, **options: Any) -> tuple[Books, Load]:
    """Mixed load on an engine with these options, held to everything that must hold."""
    engine = start(**options)
    load = Load(engine, seed=7)
    load.run(REQUESTS)
    engine.engine_core.shutdown()
    books = read_books(folder / "host")
    assert load.aborted
    assert_books_close(books, load)
    assert_tokens_as_the_client_saw_them(books, load)
    return books, load


def test_books_close_to_the_nanosecond_under_mixed_load_with_aborts(
    start_engine: Callable[..., Any], tmp_path: Path
) -> None:
    books, _ = run_load(start_engine, tmp_path)
    assert any(one.facts.cached_tokens for one in books.parts)


@pytest.mark.deep
def test_books_close_under_preemption_and_chunked_prefill(
    start_engine: Callable[..., Any], tmp_path: Path
) -> None:
    books, _ = run_load(start_engine, tmp_path, **CROWDED)
    assert any(one.part.recomputed_tokens for one in books.parts)


@pytest.mark.deep
def test_books_close_when_steps_overlap(
    start_engine: Callable[..., Any], tmp_path: Path, overlapping_steps: None
) -> None:
    books, _ = run_load(start_engine, tmp_path)
    assert any(one.part.discarded_tokens for one in books.parts)


def test_books_close_when_steps_overlap_and_requests_are_preempted(
    start_engine: Callable[..., Any], tmp_path: Path, overlapping_steps: None
) -> None:
    books, _ = run_load(start_engine, tmp_path, **CROWDED)
    assert any(one.part.recomputed_tokens for one in books.parts)


@pytest.mark.deep
def test_reported_steps_are_what_the_requests_say_and_stay_so(
    start_engine: Callable[..., Any], tmp_path: Path, overlapping_steps: None
) -> None:
    """They are references to vLLM's own objects: it may not change them afterwards."""
    engine = start_engine(**CROWDED)
    scheduler = engine.engine_core.engine_core.scheduler
    schedule, seen = scheduler.schedule, []

    def schedule_and_look(*arguments: Any, **named: Any) -> Any:
        output = schedule(*arguments, **named)
        before = {
            one: scheduler.requests[one].num_computed_tokens - tokens
            for one, tokens in output.num_scheduled_tokens.items()
        }
        seen.append((scheduler._rr_steps[-1], dict(output.num_scheduled_tokens), before))
        return output

    scheduler.schedule = schedule_and_look
    load = Load(engine, seed=9)
    load.run(60)
    assert len(seen) > 60
    for report, tokens, before in seen:
        requests, work = step_of(report)
        assert dict(zip(requests, work.tokens, strict=True)) == tokens
        assert dict(zip(requests, work.computed, strict=True)) == before


def test_failure_of_the_accounting_fails_no_request_and_closes_no_interval(
    start_engine: Callable[..., Any], tmp_path: Path
) -> None:
    engine = start_engine()
    load = Load(engine, seed=3)
    for number in range(8):
        load.add(number)
    for _ in range(3):
        load.step()
    # A step of which vLLM does not say how far its requests are.
    scheduler = engine.engine_core.engine_core.scheduler
    scheduler._rr_steps.append((0, {"nobody": 1}, [], [], ()))
    load.run(60)
    engine.engine_core.shutdown()
    books = read_books(tmp_path / "host")
    assert books.marks[-1].faults
    assert len(books.parts) == len(load.prompts)
    assert_tokens_as_the_client_saw_them(books, load)
    assert any(attributed for _, attributed in residues_ns(books))


def test_full_disk_that_counts_serves_everybody_and_what_the_engine_lost_shows(
    start_engine: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small: dict[str, int | str] = {
        "SPOOL_MAX_BYTES": 65_536,
        "SPOOL_SEGMENT_BYTES": 8_192,
        "SPOOL_WHEN_FULL": "count",
    }
    # Marks fill it, too, by the time that passes.
    small["MARK_MS"] = 5_000
    for name, value in small.items():
        monkeypatch.setenv(f"RENTROLL_INFERENCE_{name}", str(value))
    engine = start_engine()
    load = Load(engine, seed=4)
    load.run(MORE_THAN_FIT)
    (spool,) = (tmp_path / "host" / "engines").iterdir()
    before, position = read_spool(spool, Position(0, 0), ALL_RECORDS)
    # A sidecar has read them, so there is room again.
    for number in segment_numbers(spool)[:-1]:
        segment_path(spool, number).unlink()
    load.run(MORE_THAN_FIT + 20)
    engine.engine_core.shutdown()
    after, _ = read_spool(spool, position, ALL_RECORDS)
    books = books_of(frames_apart(before + after))
    assert_tokens_as_the_client_saw_them(books, load)
    found = [part.part.ordinal for part in books.parts]
    assert found == sorted(set(found))
    assert 0 < len(found) < len(load.prompts)
    assert found[-1] == len(load.prompts)
    assert "usage.lost" in books.kinds
    # Somewhere an interval has parts that are in no record, or is itself in none.
    joined = all(
        before.interval.end_ns == after.interval.start_ns for before, after in pairwise(books.spans)
    )
    assert not joined or any(attributed for _, attributed in residues_ns(books))


def test_vllm_without_a_hook_is_refused_by_name() -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    from inference.vllm_scheduler import missing_hooks, refuse_unless_hooked

    assert missing_hooks(Scheduler) == []

    class Renamed:
        schedule = update_from_output = shutdown = add_request = lambda self: None

    with pytest.raises(SettingsError, match=r"vLLM 9\.9 cannot be metered: .*_free_request"):
        refuse_unless_hooked(Renamed, "9.9")
