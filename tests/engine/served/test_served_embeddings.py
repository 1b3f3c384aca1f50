"""Stock `vllm serve` with a pooling model, metered: embeddings cost their prompts, to the token."""

from pathlib import Path

import pytest

from tests.engine.served.host import ServedHost
from tests.engine.served.story import (
    assert_counts_are_the_clients,
    events_of,
    requests_of,
    say,
    told,
    told_by_kind,
)
from tests.engine.served.traffic import EMBED, EMBEDDINGS, Traffic

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1_800)]
OPTIONS = "--runner pooling --convert embed"


def test_embeddings_become_one_event_each_with_the_clients_counts(
    tmp_path: Path, model: Path
) -> None:
    host = ServedHost(tmp_path, model, OPTIONS)
    try:
        host.wait_ready(EMBED, input="hello")
        seen = Traffic(host, seed=5, kinds=EMBEDDINGS).run(40)
    finally:
        host.end()
    events = events_of(host)
    requests = requests_of(events)
    say(told(seen, events))
    say(told_by_kind(seen, requests))
    assert assert_counts_are_the_clients(host, seen, requests) == 30
    ours = {one.kind: requests[one.request.removeprefix("rr1-")].data for one in seen}
    assert {kind: len(data.parts) for kind, data in ours.items()} == {
        "embedding": 1,
        "three embeddings": 3,
        "embedded ids": 2,
        "embedding too long": 0,
    }
    assert ours["embedded ids"].input_uncached_tokens == 5
    assert ours["embedding"].gpu_ns > 0
    assert {data.endpoint for data in ours.values()} == {EMBED}
