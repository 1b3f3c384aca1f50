"""Stock `vllm serve`, metered: exactly one event per client request, on every path, to the ns."""

import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.engine.served.host import ServedHost
from tests.engine.served.more_kinds import ADAPTER, CROWD, MORE_KINDS, OPTIONS
from tests.engine.served.story import (
    assert_counts_are_the_clients,
    assert_intervals_close,
    events_of,
    intervals_of,
    requests_of,
    say,
    told,
    told_by_kind,
)
from tests.engine.served.traffic import KINDS, Traffic
from tests.support.serve_runs import wait_for

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1_800)]
ROUNDS = 3
"""Requests of each kind."""


def test_every_kind_of_request_becomes_one_event_with_the_clients_counts(
    tmp_path: Path, model: Path
) -> None:
    kinds = KINDS + MORE_KINDS
    host = ServedHost(tmp_path, model, OPTIONS)
    try:
        host.wait_ready()
        seen = Traffic(host, seed=1, kinds=kinds).run(ROUNDS * len(kinds))
        seen += Traffic(host, seed=2, kinds=CROWD).run(8)
    finally:
        host.end()
    events = events_of(host)
    requests = requests_of(events)
    say(told(seen, events))
    say(told_by_kind(seen, requests))
    assert [one.broken for one in seen if one.broken] == []
    compared = assert_counts_are_the_clients(host, seen, requests)
    assert compared > len(seen) // 2
    assert not any(one.data.unaccounted_ns for one in intervals_of(events))
    # Each of these has answers with usage; a kind that the server turns down compares nothing.
    answered = {one.kind for one in seen if one.status == 200 and one.output_tokens is not None}
    assert {"beams", "logprobs", "structured", "think", "tool named", "adapter"} <= answered
    called = {one.kind for one in seen if one.tool_calls}
    assert called == {"tool named stream", "tool auto", "tool auto stream"}
    outcomes = Counter(event.data.outcome for event in requests.values())
    assert outcomes["client_gone"] >= 3 * ROUNDS
    assert outcomes["refused"] >= 3 * ROUNDS
    assert not outcomes["error"]
    answers = [one for one in seen if one.request]
    adapters = {one.kind: requests[one.request[4:]].data.adapter for one in answers}
    adapted = {kind for kind, name in adapters.items() if name == ADAPTER}
    assert adapted == {"adapter", "adapter stream"}
    parts = [part for event in requests.values() for part in event.data.parts]
    assert sum(part.recomputed_tokens for part in parts) > 0
    assert any(event.data.input_cache_read_tokens for event in requests.values())


@pytest.mark.parametrize(
    ("engine", "server"),
    [(True, False), (False, True), (True, True)],
    ids=["engine", "API server", "both"],
)
def test_kill_9_in_the_middle_leaves_one_event_each_and_intervals_that_close(
    tmp_path: Path, model: Path, engine: bool, server: bool
) -> None:
    host = ServedHost(tmp_path, model)
    try:
        host.wait_ready()
        traffic = Traffic(host, seed=2)

        def kill_in_the_middle() -> None:
            wait_for(lambda: traffic.begun >= 30, "request 30", 300)
            host.kill(engine=engine, server=server)

        killer = threading.Thread(target=kill_in_the_middle)
        killer.start()
        seen = traffic.run(80)
        killer.join()
    finally:
        host.end()
    events = events_of(host)
    requests = requests_of(events)
    say(told(seen, events))
    assert_counts_are_the_clients(
        host, [one for one in seen if not one.broken and one.status < 500], requests
    )
    assert_intervals_close(events)
    assert len([one for one in intervals_of(events) if one.data.synthesized]) == 1
    outcomes = Counter(event.data.outcome for event in requests.values())
    assert outcomes["engine_death"] + outcomes["error"] >= 1
