"""Clients and engine are held against the bill: what they cannot know is bounded, nothing more."""

from dataclasses import replace

import pytest

from rentroll.served_counts import (
    CACHED,
    INPUT,
    OUTPUT,
    Asked,
    Billed,
    EngineCounters,
    client_side,
    disagreements,
    engine_side,
)

ANSWERED = Asked(
    "chat", "fern", "a", "answered", input_tokens=20, cached_tokens=16, output_tokens=9
)
CUT = Asked("chat, cut", "fern", "c", "cut", input_tokens=30, output_tokens=5)
REFUSED = Asked("bad", "fern", "r", "refused")
ASKED = [ANSWERED, CUT, REFUSED]
BILLED = {
    "a": Billed("fern", "stop", {INPUT: 4, CACHED: 16, OUTPUT: 9}, 9),
    "c": Billed("fern", "client_gone", {INPUT: 14, CACHED: 16, OUTPUT: 8}, 6),
    "r": Billed("fern", "refused", {}, 0),
}
COUNTERS = EngineCounters(
    answered=1, prompt_tokens=50, cached_tokens=32, generated_tokens=17, attributed_ns=1_000
)


def test_clients_and_what_they_cannot_know_make_the_bill() -> None:
    side = client_side(ASKED, BILLED)
    assert side.events_in_all() == 3
    assert side.tokens == {INPUT: 34, CACHED: 16, OUTPUT: 14}
    assert [side.tokens_in_all(one) for one in (INPUT, CACHED, OUTPUT)] == [18, 32, 17]
    assert disagreements(ASKED, BILLED) == []


def test_what_a_client_waited_for_is_never_explained_away() -> None:
    short = [replace(ANSWERED, output_tokens=8), CUT, REFUSED]
    assert client_side(short, BILLED).tokens_in_all(OUTPUT) == 16
    (told,) = disagreements(short, BILLED)
    assert "20, 16, 8" in told


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"output_tokens": 9}, "read 9 output tokens"),
        ({"input_tokens": 31}, "31 input tokens"),
        ({"tenant": "orbit"}, "billed to fern"),
        ({"request": ""}, "no event"),
        ({"request": "z"}, "no event"),
    ],
)
def test_a_cut_stream_that_contradicts_its_bill_is_named_and_stays_a_difference(
    change: dict[str, object], words: str
) -> None:
    asked = [ANSWERED, replace(CUT, **change), REFUSED]  # type: ignore[arg-type]
    assert words in disagreements(asked, BILLED)[0]
    assert client_side(asked, BILLED).tokens_in_all(OUTPUT) != 17


def test_an_event_that_nobody_asked_for_is_named() -> None:
    billed = BILLED | {"x": Billed("fern", "stop", {OUTPUT: 1}, 1)}
    assert disagreements(ASKED, billed) == ["fern x: nobody asked"]


def test_an_answer_that_was_refused_by_the_bill_is_named() -> None:
    billed = BILLED | {"r": Billed("fern", "stop", {}, 0)}
    assert "refused, the ledger stop" in disagreements(ASKED, billed)[0]


def test_the_engine_may_miss_what_nobody_received_and_no_more() -> None:
    exact = engine_side(COUNTERS, BILLED)
    assert (exact.events_in_all(), exact.unseen_events) == (3, 2)
    assert exact.unseen_tokens == {OUTPUT: 0}
    fewer = engine_side(replace(COUNTERS, generated_tokens=15), BILLED)
    assert fewer.tokens_in_all(OUTPUT) == 17
    too_few = engine_side(replace(COUNTERS, generated_tokens=14), BILLED)
    assert too_few.tokens_in_all(OUTPUT) == 14
    too_many = engine_side(replace(COUNTERS, generated_tokens=18), BILLED)
    assert too_many.tokens_in_all(OUTPUT) == 18


def test_the_engine_sees_gpu_time_and_clients_do_not() -> None:
    assert engine_side(COUNTERS, BILLED).gpu_ns == 1_000
    assert client_side(ASKED, BILLED).gpu_ns is None
