"""A real vLLM engine under mixed load: its books close to the nanosecond."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inference.door_records import carried
from schemas.ids import uuid7
from tests.engine.spool_reading import Books, read_books, residues_ns

pytestmark = pytest.mark.engine
REQUESTS = 300
NOW_MS = 1_790_000_000_000
SHARED = list(range(10, 90))
"""A prompt that several requests begin with: the prefix cache holds it after the first."""


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
        added = 0
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


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="as it comes"),
        pytest.param(
            {
                "num_gpu_blocks_override": 20,
                "max_model_len": 512,
                "max_num_batched_tokens": 64,
                "max_num_seqs": 16,
                "block_size": 32,
            },
            id="preemption and chunked prefill",
        ),
        pytest.param(
            {
                "speculative_config": {
                    "method": "ngram",
                    "num_speculative_tokens": 3,
                    "prompt_lookup_max": 3,
                }
            },
            id="speculative decoding",
        ),
    ],
)
def test_books_close_to_the_nanosecond_under_mixed_load_with_aborts(
    start_engine: Callable[..., Any], tmp_path: Path, options: dict[str, Any]
) -> None:
    engine = start_engine(**options)
    load = Load(engine, seed=7)
    load.run(REQUESTS)
    engine.engine_core.shutdown()
    books = read_books(tmp_path / "host")
    assert load.aborted
    assert_books_close(books, load)
    assert_tokens_as_the_client_saw_them(books, load)
