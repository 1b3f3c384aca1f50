"""Token bounds of a request: never below what it can use, as far as its body tells."""

import json
from typing import Any

import pytest

from inference.door_body import read_fields
from inference.worst_case import TokenBounds, token_bounds

CONTEXT, TEMPLATE = 1_000, 50


def bounds(body: Any, parts: int = 1) -> TokenBounds:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return token_bounds(
        read_fields(raw), raw, parts=parts, context_tokens=CONTEXT, template_tokens=TEMPLATE
    )


def test_text_makes_at_most_a_token_per_byte_and_the_template_its_own() -> None:
    body = {"prompt": "hello", "max_tokens": 7}
    assert bounds(body) == (len(json.dumps(body)) + TEMPLATE, 7)


@pytest.mark.parametrize(
    "limit", [None, "many", -1, 0, {}, 10**9], ids=lambda limit: f"max_tokens={limit}"
)
def test_limit_that_is_missing_unreadable_or_too_high_is_the_context(limit: object) -> None:
    assert bounds({"prompt": "x", "max_tokens": limit}).output_tokens == CONTEXT
    assert bounds({"prompt": "x"}).output_tokens == CONTEXT


def test_limit_is_read_as_the_server_reads_it() -> None:
    assert bounds({"max_tokens": "3"}).output_tokens == 3
    assert bounds({"max_tokens": 3.0}).output_tokens == 3


def test_of_several_limits_the_greatest_counts_and_one_that_is_unreadable_is_the_context() -> None:
    assert bounds({"max_tokens": 3, "max_completion_tokens": 9}).output_tokens == 9
    assert bounds({"max_tokens": 3, "max_completion_tokens": None}).output_tokens == CONTEXT


def test_every_sample_may_use_the_limit() -> None:
    assert bounds({"prompt": "x", "max_tokens": 7, "n": 4}, parts=4).output_tokens == 28


def test_long_text_is_bounded_by_the_context_of_each_part() -> None:
    assert bounds({"prompt": "x" * 5_000}).input_tokens == CONTEXT


@pytest.mark.parametrize(
    "content",
    [
        {"type": "image_url", "image_url": {"url": "http://x/1.png"}},
        {"type": "input_audio", "input_audio": {}},
        {"type": "video_url", "video_url": {}},
    ],
)
def test_what_is_no_text_may_fill_the_context(content: object) -> None:
    body = {"messages": [{"role": "user", "content": [content]}], "max_tokens": 1}
    assert bounds(body) == (CONTEXT, 1)
    assert bounds({"prompt_embeds": "AA==", "max_tokens": 1}) == (CONTEXT, 1)


def test_body_that_is_no_object_is_bounded_by_the_context() -> None:
    assert bounds(b"[1]") == bounds(b"\x00") == (CONTEXT, CONTEXT)
