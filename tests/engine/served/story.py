"""What the events of a host must say together, whatever happened to it."""

import sys
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from schemas.control import SourceClosed, SourceOpened
from schemas.envelope import Envelope
from schemas.fleet import EngineInterval
from schemas.usage import EnginePartFinished, RequestFinished
from tests.engine.served.host import ServedHost
from tests.engine.served.more_kinds import THINK, THOUGHT
from tests.engine.served.traffic import Seen
from tests.support.host_spools import outbox_events


def say(text: str) -> None:
    """Figures of a run, for who looks."""
    sys.stdout.write(f"\n{text}\n")


def events_of(host: ServedHost) -> list[Envelope]:
    """All of its outbox: dense, from the opening of its source to the closing."""
    events = [event for _, event in outbox_events(host.settings)]
    assert isinstance(events[0], SourceOpened)
    assert isinstance(events[-1], SourceClosed)
    return events


def requests_of(events: Sequence[Envelope]) -> dict[str, RequestFinished]:
    """The event of each request; two of one would be a double bill."""
    found = [event for event in events if isinstance(event, RequestFinished)]
    by_id = {event.id: event for event in found}
    assert len(by_id) == len(found)
    return by_id


def intervals_of(events: Sequence[Envelope]) -> list[EngineInterval]:
    return [event for event in events if isinstance(event, EngineInterval)]


def assert_intervals_close(events: Sequence[Envelope]) -> int:
    """Each engine's intervals follow each other, and their parts are all that was attributed.

    Returns:
        The largest residue of an interval in ns: 0.
    """
    gpu_ns: dict[tuple[str, int], int] = {}
    for event in events:
        parts = event.data.parts if isinstance(event, RequestFinished) else ()
        apart = (event.data,) if isinstance(event, EnginePartFinished) else ()
        for part in (*parts, *apart):
            assert (part.engine, part.ordinal) not in gpu_ns
            gpu_ns[part.engine, part.ordinal] = part.gpu_ns
    intervals = [one.data for one in intervals_of(events)]
    residues_ns = [0]
    for one in intervals:
        ordinals = range(one.ordinal_start + 1, one.ordinal_end + 1)
        parts_ns = sum(gpu_ns[one.engine, ordinal] for ordinal in ordinals)
        accounted_ns = parts_ns + one.in_flight_end_ns - one.in_flight_start_ns
        spent_ns = one.attributed_ns + one.stall_ns + one.idle_ns + one.overhead_ns + one.startup_ns
        open_ns = one.open_step_end_ns - one.open_step_start_ns
        wall_ns = one.gpus * (one.end_unix_ns - one.start_unix_ns)
        assert one.owned_ns == wall_ns
        residues_ns.append(abs(one.attributed_ns - accounted_ns))
        residues_ns.append(abs(wall_ns - spent_ns - open_ns - one.unaccounted_ns))
    for engine in {one.engine for one in intervals}:
        own = [one for one in intervals if one.engine == engine]
        assert all(one.end_unix_ns == after.start_unix_ns for one, after in pairwise(own))
        assert own[-1].ordinal_end == sum(1 for name, _ in gpu_ns if name == engine)
    assert max(residues_ns) == 0
    return max(residues_ns)


def assert_counts_are_the_clients(
    host: ServedHost, seen: Sequence[Seen], events: dict[str, RequestFinished]
) -> int:
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
        if one.kind.startswith("think") and one.status == 200:
            _assert_thinking_is_the_clients(host, one, data.output_reasoning_tokens, output)
    return compared


def _assert_thinking_is_the_clients(
    host: ServedHost, one: Seen, reasoning: int, output: int
) -> None:
    told = one.thought(host.token_id(THINK), host.token_id(THOUGHT))
    if one.cut:
        # What was handed to the socket may be more than what the client has read.
        assert (one.kind, max(told, one.thinking_chunks) <= reasoning <= output) == (one.kind, True)
    elif one.thinking_tokens is not None:
        assert (one.kind, reasoning) == (one.kind, one.thinking_tokens)
    else:
        assert (one.kind, reasoning) == (one.kind, told)
    assert reasoning or one.cut


def told(seen: Sequence[Seen], events: Sequence[Envelope]) -> str:
    """One line on a run: events by outcome, and what the engines could not account for."""
    requests = requests_of(events)
    outcomes = dict(Counter(event.data.outcome for event in requests.values()))
    intervals = intervals_of(events)
    lost_ns = sum(one.data.unaccounted_ns for one in intervals)
    return (
        f"{len(seen)} requests of clients, {len(requests)} events {outcomes},"
        f" {len(intervals)} intervals, residue {assert_intervals_close(events)} ns,"
        f" unaccounted {lost_ns} ns"
    )


def told_by_kind(seen: Sequence[Seen], events: dict[str, RequestFinished]) -> str:
    """A line for each kind of request: how many, their events, outcomes and tokens."""
    lines = []
    for kind in dict.fromkeys(one.kind for one in seen):
        own = [one for one in seen if one.kind == kind]
        found = [events[one.request.removeprefix("rr1-")] for one in own if one.request]
        outcomes = dict(Counter(event.data.outcome for event in found))
        text = sum(event.data.output_text_tokens for event in found)
        thinking = sum(event.data.output_reasoning_tokens for event in found)
        lines.append(
            f"{kind}: {len(own)} requests, {outcomes}, output {text} + {thinking} thinking"
        )
    return "\n".join(lines)
