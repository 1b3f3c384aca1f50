"""Stock `vllm serve`, metered: exactly one event per client request, on every path, to the ns."""

import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from schemas.envelope import Envelope
from schemas.fleet import EngineInterval
from schemas.usage import EnginePartFinished, RequestFinished
from tests.engine.served.host import ServedHost
from tests.engine.served.traffic import Seen, Traffic
from tests.support.host_spools import outbox_events

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]
DOOR_SAYS_NO = {400, 401, 403, 404, 413, 429}


def say(text: str) -> None:
    """Figures of a run, for who looks."""
    sys.stdout.write(f"\n{text}\n")


def requests_of(host: ServedHost) -> dict[str, RequestFinished]:
    """The event of each request; two of one would be a double bill."""
    found = [event for event in events_of(host) if isinstance(event, RequestFinished)]
    by_id = {event.id: event for event in found}
    assert len(by_id) == len(found)
    return by_id


def events_of(host: ServedHost) -> list[Envelope]:
    return [event for _, event in outbox_events(host.settings)]


def assert_intervals_close(host: ServedHost) -> list[EngineInterval]:
    """Each interval's parts add up to what it attributed, to the ns."""
    events = events_of(host)
    gpu_ns: dict[tuple[str, int], int] = {}
    for event in events:
        parts = event.data.parts if isinstance(event, RequestFinished) else ()
        apart = (event.data,) if isinstance(event, EnginePartFinished) else ()
        for part in (*parts, *apart):
            assert (part.engine, part.ordinal) not in gpu_ns
            gpu_ns[part.engine, part.ordinal] = part.gpu_ns
    intervals = [event for event in events if isinstance(event, EngineInterval)]
    for one in (event.data for event in intervals):
        ordinals = range(one.ordinal_start + 1, one.ordinal_end + 1)
        parts_ns = sum(gpu_ns[one.engine, ordinal] for ordinal in ordinals)
        accounted_ns = parts_ns + one.in_flight_end_ns - one.in_flight_start_ns
        assert one.attributed_ns == accounted_ns
    return intervals


def assert_counts_are_the_clients(seen: list[Seen], events: dict[str, RequestFinished]) -> int:
    """Where a client knows, the event says the same; how many knew."""
    compared = 0
    for one in seen:
        if not one.request:
            continue
        event = events[one.request.removeprefix("rr1-")]
        data = event.data
        assert event.subject == one.tenant
        output = data.output_text_tokens + data.output_reasoning_tokens
        if one.output_tokens is not None and not one.cut:
            assert (one.kind, output) == (one.kind, one.output_tokens)
            prompt = data.input_uncached_tokens + data.input_cache_read_tokens
            assert (one.kind, prompt) == (one.kind, one.input_tokens)
            compared += 1
        elif one.token_ids is not None and not one.cut and not one.broken:
            assert (one.kind, output) == (one.kind, one.token_ids)
            compared += 1
        elif one.cut and one.token_ids:
            assert data.generated_tokens >= one.token_ids
    return compared


def test_every_kind_of_request_becomes_one_event_with_the_clients_counts(tmp_path: Path) -> None:
    host = ServedHost(tmp_path)
    try:
        host.wait_ready()
        seen = Traffic(host, seed=1).run(200)
    finally:
        host.end()
    events = requests_of(host)
    assert [one.broken for one in seen if one.broken] == []
    compared = assert_counts_are_the_clients(seen, events)
    intervals = assert_intervals_close(host)
    assert not any(one.data.unaccounted_ns for one in intervals)
    assert compared > 100
    # Each of these has answers with usage; a kind that the server turns down compares nothing.
    answered = {one.kind for one in seen if one.status == 200 and one.output_tokens is not None}
    assert {"beams", "logprobs", "structured"} <= answered
    outcomes = Counter(event.data.outcome for event in events.values())
    assert outcomes["client_gone"] >= 20
    assert outcomes["refused"] >= 20
    assert not outcomes["error"]
    say(f"{len(events)} events, {dict(outcomes)}, {compared} compared, {len(intervals)} intervals")


@pytest.mark.parametrize(
    ("engine", "server"),
    [(True, False), (False, True), (True, True)],
    ids=["engine", "API server", "both"],
)
def test_kill_9_in_the_middle_leaves_one_event_each_and_intervals_that_close(
    tmp_path: Path, engine: bool, server: bool
) -> None:
    host = ServedHost(tmp_path)
    try:
        host.wait_ready()
        killer = threading.Timer(4, host.kill, kwargs={"engine": engine, "server": server})
        killer.start()
        seen = Traffic(host, seed=2).run(170)
        killer.join()
    finally:
        host.end()
    events = requests_of(host)
    assert_counts_are_the_clients(
        [one for one in seen if not one.broken and one.status < 500], events
    )
    intervals = assert_intervals_close(host)
    assert len([one for one in intervals if one.data.synthesized]) == 1
    outcomes = Counter(event.data.outcome for event in events.values())
    unaccounted_ns = sum(one.data.unaccounted_ns for one in intervals)
    say(f"{len(events)} events, {dict(outcomes)}, {len(intervals)} intervals, {unaccounted_ns} ns")
    assert outcomes["engine_death"] + outcomes["error"] >= 1
