"""What the door reads of a body and how it rewrites one."""

import json
from typing import Any

import pytest

from inference.door_body import (
    ENGINES_ONLY,
    Asked,
    BodyRefusedError,
    Rewriting,
    asked,
    client_salt,
    read_fields,
    rewritten,
)
from schemas.usage import MAX_PARTS

REQUEST = "019a0000-0000-7000-8000-000000000001"
CHANGE = Rewriting(request=REQUEST, cache_salt="salt", tier="standard", priority=None)
COMPLETIONS, RESPONSES = "v1/completions", "v1/responses"


def reads(body: dict[str, Any], endpoint: str = COMPLETIONS) -> Asked:
    fields = read_fields(json.dumps(body).encode())
    assert fields is not None
    return asked(fields, endpoint)


def rewrites(body: bytes, endpoint: str = COMPLETIONS, **changes: Any) -> dict[str, Any]:
    fields = read_fields(body)
    assert fields is not None
    found = json.loads(rewritten(fields, endpoint, CHANGE._replace(**changes)))
    assert isinstance(found, dict)
    return found


def test_values_pass_byte_for_byte() -> None:
    body = b'{"a": [1, 2.50, 1e400],"b":"\\u00e9 \xc3\xa9","c":12345678901234567890123}'
    fields = read_fields(body)
    assert fields is not None
    out = rewritten(fields, COMPLETIONS, CHANGE)
    for value in (b"[1, 2.50, 1e400]", b'"\\u00e9 \xc3\xa9"', b"12345678901234567890123"):
        assert value in out


@pytest.mark.parametrize("name", [*ENGINES_ONLY, "cache_salt"])
def test_field_that_is_the_doors_cannot_be_smuggled_in(name: str) -> None:
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in name)
    for key in (name, escaped):
        body = f'{{"{key}":"mine","prompt":"x","{key}":"mine too"}}'.encode()
        assert rewrites(body).get(name) == ("salt" if name == "cache_salt" else None)


@pytest.mark.parametrize(
    "body",
    [
        b'{"priority":-1,"temperature":NaN}',
        b'\xef\xbb\xbf{"priority":-1}',
        '{"priority":-1}'.encode("utf-16"),
        '{"priority":-1}'.encode("utf-32-le"),
        b'{"priority":-1,"prompt":"\\ud800"}',
        b'{"priority":-1,"stop":-Infinity}',
    ],
)
def test_what_only_pythons_parser_reads_is_rewritten_too(body: bytes) -> None:
    found = rewrites(body)
    assert "priority" not in found
    assert found["cache_salt"] == "salt"
    ours = {"cache_salt"}
    theirs = {**json.loads(body)}
    del theirs["priority"]
    assert str({k: v for k, v in found.items() if k not in ours}) == str(theirs)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"1", b'{"a":1}x', b'{"\xff":1}'])
def test_what_nobody_can_read_is_none(body: bytes) -> None:
    assert read_fields(body) is None


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_body_nested_too_deeply_is_refused(opening: bytes) -> None:
    with pytest.raises(BodyRefusedError, match="nested too deeply"):
        read_fields(b'{"a":' + opening * 100_000)


def test_responses_api_gets_its_id_in_the_body_and_keeps_nothing() -> None:
    found = rewrites(b'{"input":"x","store":true,"request_id":"mine"}', RESPONSES)
    assert found["request_id"] == f"resp_rr1-{REQUEST}"
    assert found["store"] is False


@pytest.mark.parametrize("field", ["previous_response_id", "background"])
def test_state_that_a_server_would_keep_is_refused(field: str) -> None:
    with pytest.raises(BodyRefusedError, match=field):
        reads({"input": "x", field: "resp_of_somebody" if field[0] == "p" else True}, RESPONSES)
    assert reads({"input": "x", field: None}, RESPONSES)
    assert reads({"prompt": "x", field: "y"}, COMPLETIONS)


@pytest.mark.parametrize(
    ("asked_for", "tier", "passed"),
    [
        (None, "standard", None),
        ("auto", "standard", "default"),
        ("priority", "priority", "priority"),
        ("priority", "standard", "default"),
        ("batch", "batch", "flex"),
        ("scale", "standard", "scale"),
        (7, "standard", 7),
    ],
)
def test_tier_is_passed_on_in_words_that_vllm_knows(
    asked_for: object, tier: str, passed: object
) -> None:
    body = {} if asked_for is None else {"service_tier": asked_for}
    found = rewrites(json.dumps(body).encode(), tier=tier)
    assert found.get("service_tier") == passed


def test_priority_is_the_doors_where_the_engine_schedules_by_it() -> None:
    assert rewrites(b'{"priority":-5}', priority=10)["priority"] == 10


def test_shared_cache_has_no_salt() -> None:
    assert "cache_salt" not in rewrites(b'{"cache_salt":"mine"}', cache_salt="")


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ({"prompt": "x"}, 1),
        ({"prompt": "x", "n": 3}, 3),
        ({"prompt": "x", "n": "3"}, 3),
        ({"prompt": "x", "n": 3.0}, 3),
        ({"prompt": "x", "n": None}, 1),
        ({"prompt": "x", "n": -4}, 1),
        ({"prompt": ["a", "b"], "n": 2}, 4),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [[1, 2], [3]]}, 2),
        ({"prompt": []}, 1),
        ({"prompt": None, "prompt_embeds": ["a", "b"]}, 2),
        ({"input": ["a", "b", "c"]}, 3),
        ({"input": [{"role": "user"}]}, 1),
        ({"messages": []}, 1),
    ],
)
def test_parts_are_counted_as_vllm_will_make_them(body: dict[str, Any], parts: int) -> None:
    assert reads(body).parts == parts


def test_more_parts_than_an_event_can_carry_are_refused() -> None:
    assert reads({"prompt": "x", "n": MAX_PARTS}).parts == MAX_PARTS
    with pytest.raises(BodyRefusedError, match="1026 is more than 1024"):
        reads({"prompt": ["x", "y"], "n": MAX_PARTS // 2 + 1})


def test_values_of_a_wrong_type_count_as_absent() -> None:
    found = reads({"model": 7, "user": ["x"], "service_tier": {}, "n": {}, "prompt": 3})
    assert found == Asked(model="", end_user="", tier="", parts=1)


def test_words_are_read_with_their_escapes() -> None:
    fields = read_fields(b'{"model": "t\\u0069ny","safety_identifier":"u1","cache_salt":"s"}')
    assert fields is not None
    assert asked(fields, COMPLETIONS) == Asked(model="tiny", end_user="u1", tier="", parts=1)
    assert client_salt(fields) == "s"


@pytest.mark.parametrize("body", [b"[NaN]", b"NaN", "[1]".encode("utf-16")])
def test_what_python_reads_as_no_object_is_none(body: bytes) -> None:
    assert read_fields(body) is None


def test_deep_body_that_only_python_could_read_is_refused() -> None:
    with pytest.raises(BodyRefusedError, match="nested too deeply"):
        read_fields(b'{"x":NaN,"a":' + b"[" * 100_000)


def test_text_that_is_no_text_counts_as_absent() -> None:
    fields = read_fields(b'{"model":"\xff","prompt":["\xff","b"]}')
    assert fields is not None
    assert asked(fields, COMPLETIONS).model == ""
