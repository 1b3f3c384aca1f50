"""How the door reads the end of an answer."""

import json
from typing import Any

import pytest

from inference.door_delivery import BODY_KEPT_BYTES, CHAT, RESPONSES, Delivery, Ending
from inference.door_records import ClientUsage

COMPLETIONS = "v1/completions"
SSE, JSON = b"text/event-stream; charset=utf-8", b"application/json"


def sse(value: Any) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


TOKEN = sse({"choices": [{"index": 0, "text": "a", "finish_reason": None}]})
LAST = sse({"choices": [{"index": 0, "text": "a", "finish_reason": "length"}]})
DONE = b"data: [DONE]\n\n"


def usage_chunk(tokens: int) -> bytes:
    return sse({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": tokens}})


def ending(
    chunks: list[bytes],
    *,
    endpoint: str = COMPLETIONS,
    kind: bytes = SSE,
    status: int = 200,
    complete: bool = True,
    gone: bool = False,
    parts: int = 1,
) -> Ending:
    delivery = Delivery(endpoint, parts)
    delivery.started(status, kind)
    for chunk in chunks:
        delivery.sent(chunk)
    delivery.complete, delivery.gone = complete, gone
    return delivery.read_end()


def test_stream_with_usage_and_done_tells_reason_and_usage() -> None:
    found = ending([TOKEN, LAST, usage_chunk(2), DONE, b""])
    assert found.finish_reason in ("length", "")
    found = ending([TOKEN, LAST, usage_chunk(2), DONE])
    assert found.finish_reason == "length"
    assert found.usage == ClientUsage(input_tokens=3, output_tokens=2)
    assert found.delivered_tokens == 2


def test_cut_stream_with_usage_in_every_chunk_is_counted_by_the_last() -> None:
    def chunk(tokens: int) -> bytes:
        usage = {"prompt_tokens": 3, "completion_tokens": tokens}
        return sse({"choices": [{"text": "a" * tokens}], "usage": usage})

    found = ending([chunk(4), chunk(9)], complete=False, gone=True)
    assert found.delivered_tokens == 9
    several = ending([chunk(4), chunk(9)], complete=False, gone=True, parts=2)
    assert several.delivered_tokens == 2


@pytest.mark.parametrize(
    ("status", "word", "reason"),
    [
        ("completed", "finished", "stop"),
        ("incomplete", "finished", "length"),
        ("failed", "failed", ""),
    ],
)
def test_responses_api_says_its_reason_in_a_status(status: str, word: str, reason: str) -> None:
    error = {"code": "server_error"} if status == "failed" else None
    last = {"type": "response.x", "response": {"status": status, "error": error, "usage": None}}
    found = ending([b"event: response.x\n" + sse(last)], endpoint=RESPONSES)
    assert (found.ending, found.finish_reason) == (word, reason)


def test_details_of_usage_are_read_in_the_words_of_every_endpoint() -> None:
    usage = {
        "input_tokens": 9,
        "output_tokens": 8,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens_details": {"reasoning_tokens": 5},
    }
    body = json.dumps({"status": "completed", "usage": usage}).encode()
    found = ending([body], endpoint=RESPONSES, kind=JSON)
    assert found.usage == ClientUsage(
        input_tokens=9, output_tokens=8, cached_tokens=4, reasoning_tokens=5
    )


def test_whole_answer_in_several_chunks_is_read_as_one() -> None:
    body = json.dumps({"choices": [{"finish_reason": "stop"}], "usage": {"completion_tokens": 4}})
    chunks = [body[:9].encode(), body[9:].encode()]
    found = ending(chunks, kind=JSON)
    assert (found.delivered_tokens, found.finish_reason) == (4, "stop")


def test_answer_too_long_to_keep_is_closed_without_usage() -> None:
    body = b'{"usage":{"completion_tokens":4},"x":"' + b"x" * BODY_KEPT_BYTES + b'"}'
    found = ending([body], kind=JSON)
    assert found.usage is None
    assert found.ending == "finished"


@pytest.mark.parametrize(
    "noise", [b"", b"data: {", b"data: {}\n\n", b"\xff\xfe", b'data: {"a":\n\n']
)
def test_noise_in_a_stream_is_no_failure_and_no_token(noise: bytes) -> None:
    found = ending([TOKEN, noise])
    assert (found.ending, found.delivered_tokens) == ("finished", 1)


def test_usage_that_is_no_usage_is_left_out() -> None:
    found = ending([b'{"usage":{"completion_tokens":"four"}}'], kind=JSON)
    assert (found.usage, found.delivered_tokens) == (None, 0)


def test_tokens_handed_but_not_sent_are_not_delivered() -> None:
    delivery = Delivery(CHAT, 1)
    delivery.started(200, SSE)
    delivery.engine_called(1)
    delivery.handed(3)
    delivery.sent(TOKEN)
    delivery.handed(4)
    delivery.gone = True
    assert delivery.read_end().delivered_tokens == 3


@pytest.mark.parametrize(
    ("status", "hooked", "word", "engine_requests"),
    [
        (400, False, "refused", 0),
        (404, True, "refused", 0),
        (500, False, "failed", 2),
        (503, True, "failed", 0),
    ],
)
def test_error_status_tells_whether_an_engine_was_reached(
    status: int, hooked: bool, word: str, engine_requests: int
) -> None:
    delivery = Delivery(COMPLETIONS, 2)
    if hooked:
        delivery.engine_called(0)
    delivery.started(status, JSON)
    delivery.sent(b'{"error":{"message":"x"}}')
    delivery.complete = True
    found = delivery.read_end()
    assert (found.ending, found.engine_requests) == (word, engine_requests)


def test_answer_that_never_started_is_a_failure() -> None:
    found = Delivery(COMPLETIONS, 1).read_end()
    assert (found.ending, found.status) == ("failed", 500)


def test_hook_adds_up_over_the_calls_of_one_request() -> None:
    delivery = Delivery(COMPLETIONS, 4)
    delivery.engine_called(1)
    delivery.engine_called(2)
    delivery.started(200, JSON)
    assert delivery.read_end().engine_requests == 3


@pytest.mark.parametrize(("informed", "engine_requests"), [(True, 0), (False, 4)])
@pytest.mark.parametrize("status", [0, 500])
def test_failure_that_the_hook_never_saw_reached_no_engine(
    informed: bool, engine_requests: int, status: int
) -> None:
    delivery = Delivery(COMPLETIONS, 4, informed=informed)
    if status:
        delivery.started(status, JSON)
        delivery.complete = True
    found = delivery.read_end()
    assert (found.ending, found.status) == ("failed", 500)
    assert found.engine_requests == engine_requests


def test_answer_that_the_hook_never_saw_is_taken_at_its_word() -> None:
    delivery = Delivery(COMPLETIONS, 2, informed=True)
    delivery.started(200, JSON)
    delivery.complete = True
    assert delivery.read_end().engine_requests == 2
