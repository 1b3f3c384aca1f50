"""The fast decoder against the reference: same verdict, same row, on anything hypothesis finds."""

import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.fields import Contract
from schemas.tables import USAGE_EVENTS
from schemas.topics import TOPIC_OF_TYPE, USAGE
from schemas.units import VALUE_BYTES_MAX
from streams import canonical_usage, fast_usage
from streams.columns import arrow_schema, table_of_rows
from streams.decode import decode
from streams.vectors import Unsure
from tests.support.events import OCTOBER_MS, HostScript
from tests.support.examples import INVALID, example_files, load
from tests.support.verdicts import (
    EVENT_EXAMPLES,
    REQUEST_EXAMPLES,
    assert_same_verdict,
    at,
    compact,
    expected,
    places_in,
)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.integers(2**31 - 2, 2**31 + 2)
    | st.integers(2**63 - 2, 2**64 + 2)
    | st.integers(2**40 - 1, 2**40 + 1)
    | st.floats()
    | st.integers(0, 2**53).map(float)
    | st.text(max_size=12)
    | st.sampled_from(
        ["", " ", "a\n", "\n", "acme\n", "ä", "\x7f", "\x00", "A" * 128, "A" * 129, "x" * 257]
    )
)
JSON_VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def changed_values(draw: st.DrawFn) -> bytes:
    """A valid request with one thing changed: a value, a key, or how it is written down."""
    event = load(draw(st.sampled_from(REQUEST_EXAMPLES)))
    place = draw(st.sampled_from([path for path in places_in(event) if path]))
    parent, key = at(event, place[:-1]), place[-1]
    how = draw(st.sampled_from(["replace", "drop", "add", "nudge", "as-float", "stretch"]))
    old = parent[key]
    if how == "replace":
        parent[key] = draw(JSON_VALUES)
    elif how == "drop":
        del parent[key]
    elif how == "add" and isinstance(parent, dict):
        parent[draw(st.text(max_size=6))] = draw(JSON_VALUES)
    elif how == "nudge" and type(old) is int:
        parent[key] = old + draw(st.integers(-2, 2))
    elif how == "as-float" and type(old) is int:
        parent[key] = float(old)
    elif isinstance(old, str):
        parent[key] = draw(
            st.sampled_from([old + "\n", "\n" + old, old + " ", old.upper(), old[:-1]])
        )
    return compact(event)


@st.composite
def rewritten_values(draw: st.DrawFn) -> bytes:
    """A valid request whose *bytes* were changed: cut, spliced, doubled, written differently."""
    event = load(draw(st.sampled_from(REQUEST_EXAMPLES)))
    value = compact(event)
    how = draw(st.integers(0, 5))
    if how == 0:
        at_byte = draw(st.integers(0, len(value) - 1))
        return value[:at_byte] + draw(st.binary(max_size=3)) + value[at_byte + 1 :]
    if how == 1:
        return value + draw(st.sampled_from([b"x", b" ", b"\n", b"\x00", b"{}", value, b",", b"]"]))
    if how == 2:
        return json.dumps(event, indent=draw(st.integers(0, 2))).encode()
    if how == 3:
        member = draw(st.sampled_from(sorted(event["data"])))
        again = compact({member: draw(JSON_VALUES)})[1:-1]
        return value.replace(b'"data":{', b'"data":{' + again + b",")
    if how == 4:
        name = draw(st.sampled_from([b"gpus", b"id", b"outcome", b"stop", b"ordinal"]))
        escaped = b"".join(b"\\u%04x" % byte for byte in name)
        return value.replace(name, escaped, 1)
    numbers = [b"1.0", b"1e2", b"-0", b"01", b"00", b"1.", b"+1", b" 1", b"0x10", b"NaN", b"1E400"]
    number = draw(st.sampled_from(numbers))
    return re.sub(rb'("gpus":)[0-9]+', rb"\g<1>" + number, value)


@given(values=st.lists(changed_values() | rewritten_values(), min_size=1, max_size=4))
def test_a_changed_event_gets_the_verdict_of_the_reference(values: list[bytes]) -> None:
    good = compact(load(REQUEST_EXAMPLES[0]))
    assert_same_verdict([good, *values, good])


@given(value=changed_values() | rewritten_values())
def test_the_fast_way_never_takes_what_the_reference_refuses(value: bytes) -> None:
    try:
        columns = fast_usage.columns([value])
    except Unsure:
        return
    row = expected(value, USAGE.name, 0)
    assert row is not None, "the fast way took it"
    (plain,) = table_of_rows(USAGE_EVENTS, [row]).to_pylist()
    for name, column in columns.items():
        assert column.to_pylist() == [plain[name]], name


@given(value=changed_values() | rewritten_values())
@example(value=b"\xef\xbb\xbf" + compact(load(REQUEST_EXAMPLES[0])))
@example(value=compact(load(REQUEST_EXAMPLES[0])) + b"\r")
def test_the_fastest_way_never_takes_what_the_reference_refuses(value: bytes) -> None:
    good = HostScript("beside").request(OCTOBER_MS).value
    try:
        columns, others = fast_usage.columns_of_canonical([good, value])
    except Unsure:
        return
    if others:
        assert others == [1]
        return
    row = expected(value, USAGE.name, 0)
    assert row is not None, "the fastest way took it"
    (plain,) = table_of_rows(USAGE_EVENTS, [row]).to_pylist()
    for name, column in columns.items():
        assert column.to_pylist()[1] == plain[name], name


@pytest.mark.parametrize("field", ["client_request_id", "end_user", "adapter", "finish_reason"])
def test_a_quote_that_opens_a_text_does_not_close_it_too(field: str) -> None:
    event = load(REQUEST_EXAMPLES[0])
    event["data"][field] = ""
    whole = compact(event)
    assert fast_usage.columns_of_canonical([whole])[1] == []
    cut = whole.replace(f'"{field}":""'.encode(), f'"{field}":"'.encode())
    assert cut != whole
    with pytest.raises(Unsure):
        fast_usage.columns_of_canonical([cut])
    assert_same_verdict([cut, whole])


def test_the_fastest_way_takes_what_emitters_write_and_knows_what_it_leaves() -> None:
    """Over more bytes than the reader cuts at a time, with other shapes in between."""
    host = HostScript("canonical")
    values = [host.request(OCTOBER_MS + place).value for place in range(2_000)]
    two_parts = json.loads(values[0])
    part = two_parts["data"]["parts"][0]
    two_parts["data"]["parts"] = [part, part]
    strange = {
        3: compact(two_parts),
        700: values[700].replace(b'"data":{', b'"data": {'),
        1_500: b"no,event",
        1_999: values[1_999][:-1],
    }
    for place, value in strange.items():
        values[place] = value
    assert len(b"".join(values)) > canonical_usage.BLOCK_BYTES
    shaped = [value for place, value in enumerate(values) if place not in strange]
    assert fast_usage.columns_of_canonical(shaped)[1] == []
    of_another_shape = {place: strange[place] for place in (3, 1_500)}
    mixed = [
        of_another_shape.get(place, shaped[0] if place in strange else value)
        for place, value in enumerate(values)
    ]
    assert fast_usage.columns_of_canonical(mixed)[1] == sorted(of_another_shape)
    assert_same_verdict(values)


@given(value=st.binary(max_size=60) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
@example(value=b"[" * 200_000)
@example(value=b'{"type":' + b"[" * 100_000)
@example(value=b"\xef\xbb\xbf{}")
@example(value=b'{"type":"\\ud800"}')
@example(value=b"")
def test_noise_is_refused_on_every_topic(value: bytes) -> None:
    for topic in ("usage.v1", "capacity.v1", "control.v1", "dlq.v1"):
        decoded = decode(topic, 0, [7], [value])
        assert decoded.rows == 0
        assert [one.offset for one in decoded.refused] == [7]


@pytest.mark.parametrize("name", EVENT_EXAMPLES)
def test_every_valid_example_is_taken_on_its_topic_and_refused_on_others(name: str) -> None:
    event = load(name)
    topic = TOPIC_OF_TYPE[event["type"]].name
    for other in ("usage.v1", "capacity.v1", "control.v1"):
        assert_same_verdict([compact(event)], other)
        decoded = decode(other, 0, [0], [compact(event)])
        assert decoded.rows == (1 if other == topic else 0)
        if other != topic:
            assert [one.reason for one in decoded.refused] == ["event.wrong_topic"]


@pytest.mark.parametrize("path", example_files(INVALID), ids=lambda path: path.stem)
def test_every_invalid_example_is_refused(path: Any) -> None:
    for topic in ("usage.v1", "capacity.v1", "control.v1", "dlq.v1"):
        assert decode(topic, 0, [0], [path.read_bytes()]).rows == 0


def test_the_fast_way_takes_every_valid_request() -> None:
    """Otherwise the bench would measure the reference."""
    for name in REQUEST_EXAMPLES:
        fast_usage.columns([compact(load(name))])


def test_one_bad_record_among_a_thousand_costs_only_itself() -> None:
    host = HostScript("crowd")
    values = [host.request(OCTOBER_MS + place).value for place in range(1_000)]
    values[500] = values[500].replace(b'"http_status":200', b'"http_status":200.0')
    values[700] = b"nonsense"
    decoded = decode(USAGE.name, 0, range(1_000), values)
    assert decoded.rows == 998
    assert [(one.offset, one.reason) for one in decoded.refused] == [
        (500, "event.invalid"),
        (700, "record.malformed"),
    ]
    assert decoded.refused[0].detail.startswith("data.http_status: ")
    assert "200.0" in decoded.refused[0].detail


def test_a_record_without_a_value_is_refused_and_says_so() -> None:
    (refused,) = decode(USAGE.name, 0, [5], [None]).refused
    assert (refused.reason, refused.offset, refused.value) == ("record.empty", 5, b"")


def test_a_value_longer_than_an_event_may_be_is_refused() -> None:
    value = compact(load(REQUEST_EXAMPLES[0]))
    longest = value + b" " * (VALUE_BYTES_MAX - len(value))
    assert decode(USAGE.name, 0, [1], [longest]).rows == 1
    (refused,) = decode(USAGE.name, 0, [2], [longest + b" "]).refused
    assert refused.reason == "record.malformed"


def test_sums_that_would_wrap_are_not_taken_for_equal() -> None:
    """Parts whose GPU time adds up to 2^64 + x would look like x in 64 bits."""
    event = load(REQUEST_EXAMPLES[0])
    part = event["data"]["parts"][0]
    event["data"]["parts"] = [part | {"gpu_ns": 2**58} for _ in range(64)]
    event["data"] |= {"gpu_ns": 0, "gpu_prefill_ns": 0, "gpu_recompute_ns": 0}
    assert_same_verdict([compact(event)])
    assert decode(USAGE.name, 0, [0], [compact(event)]).rows == 0


@pytest.mark.parametrize("contract", fast_usage.LAWS)
def test_the_contract_has_no_law_that_the_fast_way_does_not_know(contract: type[Contract]) -> None:
    """A new validator must be written into streams/fast_usage.py, then named in its LAWS."""
    laws = set(contract.__pydantic_decorators__.model_validators)
    assert laws == fast_usage.LAWS[contract]
    assert not contract.__pydantic_decorators__.field_validators
    for name, field in contract.model_fields.items():
        extra = {type(one).__name__ for one in field.metadata} - {
            *("Ge", "Le", "MinLen", "MaxLen", "_PydanticGeneralMetadata"),
        }
        time = {"AfterValidator"} if "Timestamp" in str(field) or name in _TIMES else set()
        assert extra <= time, f"{name} has a check that the fast way does not know: {extra}"


_TIMES = {"time", "finished_at"}


def test_every_column_of_the_table_is_filled() -> None:
    decoded = decode(USAGE.name, 0, [0], [compact(load(REQUEST_EXAMPLES[0]))])
    assert decoded.tables[USAGE_EVENTS].schema == arrow_schema(USAGE_EVENTS)
