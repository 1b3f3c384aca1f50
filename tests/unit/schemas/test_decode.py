"""The one decoder: an event, or an error that begins with the field that is wrong."""

import json

import pytest

from schemas.decode import decode_event
from schemas.errors import MalformedEventError
from schemas.units import VALUE_BYTES_MAX
from schemas.usage import RequestFinished
from tests.support.examples import load


def reason(value: bytes) -> str:
    with pytest.raises(MalformedEventError) as caught:
        decode_event(value)
    return str(caught.value)


def test_a_valid_event_becomes_its_own_model() -> None:
    event = decode_event(json.dumps(load("request.finished--stop")).encode())
    assert isinstance(event, RequestFinished)
    assert event.data.output_text_tokens == 44


@pytest.mark.parametrize("value", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_bytes_that_are_not_json_say_so(value: bytes) -> None:
    assert reason(value).startswith("value: not JSON")


@pytest.mark.parametrize("value", [b"{}", b"1", b"[]", b'{"type":[]}', b'{"type":"other"}'])
def test_json_that_is_no_event_of_ours_names_the_type(value: bytes) -> None:
    assert reason(value).startswith("type: ")


def test_an_oversized_value_is_refused_before_it_is_parsed() -> None:
    assert reason(b" " * (VALUE_BYTES_MAX + 1)) == (
        f"value: {VALUE_BYTES_MAX + 1} bytes, at most {VALUE_BYTES_MAX}"
    )


def test_a_bad_field_is_named_with_its_path_and_value() -> None:
    event = load("request.finished--stop")
    event["data"]["parts"][0]["gpu_ns"] = -5
    assert reason(json.dumps(event).encode()) == (
        "data.parts.0.gpu_ns: Input should be greater than or equal to 0, got -5"
    )


def test_a_broken_rule_between_fields_begins_with_a_field() -> None:
    event = load("request.finished--stop")
    event["data"]["delivered_tokens"] = 45
    assert reason(json.dumps(event).encode()) == "delivered_tokens: 45 > output 44"


def test_an_unknown_field_of_any_name_makes_a_detail_that_a_dead_letter_holds() -> None:
    event = load("request.finished--stop")
    event["data"]["x\n" * 50_000] = 1
    detail = reason(json.dumps(event).encode())
    assert len(detail) < 300
    assert "\n" not in detail


def test_a_long_value_is_cut_in_the_message() -> None:
    event = load("request.finished--stop")
    event["data"]["model"] = "x" * 100_000
    assert len(reason(json.dumps(event).encode())) < 250
