"""Events: the time is the id's; GPU time is conserved, so any single changed unit is refused."""

import json
from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.decode import decode_event
from schemas.errors import MalformedEventError
from schemas.generate import CONTRACTS
from schemas.ids import EVENT_TIME_FIRST_MS, EVENT_TIME_LAST_MS, format_ms, uuid7, uuid7_unix_ms
from schemas.topics import EVENTS
from schemas.units import NS_PER_HOUR
from tests.support.examples import VALID, contract_name, example_files, load, refusal_of

EVENT_EXAMPLES = [
    path.stem for path in example_files(VALID) if CONTRACTS[contract_name(path)] in EVENTS
]
INTERVAL_SUMMANDS = (
    "owned_ns",
    "attributed_ns",
    "stall_ns",
    "idle_ns",
    "overhead_ns",
    "startup_ns",
    "open_step_start_ns",
    "open_step_end_ns",
    "start_unix_ns",
    "end_unix_ns",
)
NS = st.integers(0, 10**15)
LAST_WRITABLE_MS = 253_402_300_800_000
"""The year 10,000."""
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    unix_ms=st.integers(EVENT_TIME_FIRST_MS, EVENT_TIME_LAST_MS - 1),
    entropy=st.integers(0, 2**74 - 1),
    off_ms=st.integers(-5, 5),
)
def test_an_events_time_is_the_time_of_its_id(unix_ms: int, entropy: int, off_ms: int) -> None:
    event = load("request.finished--stop")
    event["id"] = uuid7(unix_ms, entropy)
    event["time"] = format_ms(unix_ms + off_ms)
    error = refusal_of("request.finished", event)
    if off_ms == 0:
        assert error is None
    else:
        assert error is not None
        assert error.startswith("time: ")


@given(
    unix_ms=st.one_of(
        st.integers(0, EVENT_TIME_FIRST_MS - 1),
        st.integers(EVENT_TIME_LAST_MS, 2**48 - 1),
    )
)
def test_an_event_outside_the_years_2015_to_2099_is_refused(unix_ms: int) -> None:
    event = load("request.finished--stop")
    event["id"] = uuid7(unix_ms, 0)
    error = refusal_of("request.finished", event)
    assert error is not None
    assert error.startswith("id: ")
    if unix_ms < LAST_WRITABLE_MS:
        event["time"] = format_ms(unix_ms)
        error = refusal_of("request.finished", event)
        assert error is not None
        assert error.startswith("time: ")


@st.composite
def intervals(draw: st.DrawFn) -> dict[str, Any]:
    """An interval whose time is conserved: what is left over becomes idle."""
    event = load("engine.interval--busy")
    data: dict[str, Any] = event["data"]
    gpus = draw(st.integers(1, 1_024))
    wall_ns = draw(st.integers(2, 10**10))
    end_ms = uuid7_unix_ms(event["id"])
    spent = {name: draw(NS) for name in ("attributed_ns", "stall_ns", "overhead_ns", "startup_ns")}
    open_start_ns, open_end_ns = draw(NS), draw(NS)
    owned_ns = gpus * wall_ns
    idle_ns = owned_ns - sum(spent.values()) - open_end_ns + open_start_ns
    if idle_ns < 0:
        spent = dict.fromkeys(spent, 0)
        open_start_ns = open_end_ns = 0
        idle_ns = owned_ns
    data |= spent
    data |= {
        "gpus": gpus,
        "owned_ns": owned_ns,
        "idle_ns": idle_ns,
        "open_step_start_ns": open_start_ns,
        "open_step_end_ns": open_end_ns,
        "end_unix_ns": end_ms * 10**6,
        "start_unix_ns": end_ms * 10**6 - wall_ns,
    }
    return event


@given(event=intervals())
def test_an_interval_that_conserves_its_time_is_accepted(event: dict[str, Any]) -> None:
    assert refusal_of("engine.interval", event) is None


@given(
    event=intervals(), field=st.sampled_from(INTERVAL_SUMMANDS), change_ns=st.sampled_from((-1, 1))
)
def test_an_interval_with_one_changed_nanosecond_is_refused(
    event: dict[str, Any], field: str, change_ns: int
) -> None:
    event["data"][field] += change_ns
    assert refusal_of("engine.interval", event) is not None


@given(start_ns=st.integers(0, 10 * NS_PER_HOUR), wall_ns=st.integers(0, 2 * NS_PER_HOUR))
def test_only_a_synthesized_interval_crosses_a_whole_hour(start_ns: int, wall_ns: int) -> None:
    event = load("engine.interval--synthesized_after_engine_death_across_an_hour")
    start_ns += 493_000 * NS_PER_HOUR
    zero = [name for name in event["data"] if name.endswith("_ns")]
    event["data"] |= dict.fromkeys(zero, 0) | {
        "start_unix_ns": start_ns,
        "end_unix_ns": start_ns + wall_ns,
        "owned_ns": 4 * wall_ns,
        "idle_ns": 4 * wall_ns,
        "oldest_open_at": "2026-01-01T00:00:00.000Z",
    }
    assert refusal_of("engine.interval", event) is None
    event["data"]["synthesized"] = False
    crosses = any(
        start_ns < hour * NS_PER_HOUR < start_ns + wall_ns
        for hour in range(start_ns // NS_PER_HOUR, (start_ns + wall_ns) // NS_PER_HOUR + 1)
    )
    assert (refusal_of("engine.interval", event) is not None) == crosses


@given(sequence=st.integers(2, 1_000), last=st.integers(1, 1_000))
def test_a_signed_range_ends_just_before_the_event_that_carries_it(
    sequence: int, last: int
) -> None:
    for name in ("engine.interval--busy", "source.closed--drained"):
        event = load(name)
        event["sequence"] = sequence
        event["data"]["range"] |= {"sequence_first": 1, "sequence_last": last}
        assert (refusal_of(name.split("--")[0], event) is None) == (last == sequence - 1)


@given(
    part=st.fixed_dictionaries(
        {
            "generated_tokens": st.integers(0, 2**20),
            "drafts_rejected_tokens": st.integers(0, 2**20),
            "discarded_tokens": st.integers(0, 2**20),
        }
    ),
    change=st.sampled_from((-1, 0, 1)),
)
def test_decode_tokens_of_a_part_are_accounted_for(part: dict[str, int], change: int) -> None:
    event = load("engine.part.finished--usual")
    explained = (
        max(part["generated_tokens"] - 1, 0)
        + part["drafts_rejected_tokens"]
        + part["discarded_tokens"]
    )
    event["data"] |= part | {"decode_scheduled_tokens": explained + change}
    assert (refusal_of("engine.part.finished", event) is None) == (change == 0)


@given(parts_ns=st.lists(NS, min_size=1, max_size=5), change_ns=st.sampled_from((-1, 0, 1)))
def test_gpu_time_of_a_request_is_that_of_its_parts(parts_ns: list[int], change_ns: int) -> None:
    event = load("request.finished--stop")
    part = event["data"]["parts"][0]
    total_ns = sum(parts_ns) + change_ns
    event["data"] |= {
        "parts": [part | {"gpu_ns": gpu_ns} for gpu_ns in parts_ns],
        "gpu_ns": total_ns,
        "gpu_prefill_ns": 0,
    }
    assert (refusal_of("request.finished", event) is None) == (change_ns == 0)


@given(value=st.binary(max_size=200) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_break_the_decoder(value: bytes) -> None:
    """Whatever is on the topic, the answer is an event or a `MalformedEventError`."""
    with suppress(MalformedEventError):
        decode_event(value)


@given(name=st.sampled_from(EVENT_EXAMPLES), replacement=JSON_VALUES, choice=st.integers(0, 100))
def test_no_changed_field_breaks_the_decoder(name: str, replacement: Any, choice: int) -> None:
    event = load(name)
    places = [(event, key) for key in event] + [(event["data"], key) for key in event["data"]]
    where, key = places[choice % len(places)]
    where[key] = replacement
    with suppress(MalformedEventError):
        decoded = decode_event(json.dumps(event).encode())
        assert json.loads(decoded.model_dump_json()) == event
