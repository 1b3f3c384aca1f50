"""Which records of the log are copies that a redrive has sent before."""

import hashlib
from dataclasses import replace

from infra.kafka.records import Lying
from infra.store.decisions import Decision
from streams.completeness_decisions import DISCARD_DEAD_LETTER
from streams.dead_letter_book import Letter
from streams.redrive import Intended, copies_among, why_not
from tests.support.events import OCTOBER_MS, HostScript

VALUE = HostScript("redriven").request(OCTOBER_MS).value
LETTER = Letter(
    topic="usage.v1",
    partition=1,
    offset=40,
    reason="ledger.refused",
    detail="",
    content_sha256=hashlib.sha256(VALUE).hexdigest(),
    source="",
    sequence=0,
    event_id="",
    tenant="",
)
INTENDED = Intended(LETTER, VALUE, {0: 10, 1: 50})


def found(*records: Lying, also: tuple[Intended, ...] = ()) -> list[str]:
    return list(copies_among([INTENDED, *also], "usage.v1", records).values())


def test_same_bytes_behind_the_intention_are_a_copy() -> None:
    assert found(Lying(1, 49, VALUE), Lying(1, 50, VALUE)) == ["usage.v1/1/50"]
    assert found(Lying(0, 9, VALUE)) == []
    assert found(Lying(2, 0, VALUE)) == ["usage.v1/2/0"], "a partition that came later"


def test_other_bytes_are_none() -> None:
    assert found(Lying(1, 60, VALUE[:-1] + b" "), Lying(1, 61, b"")) == []


def test_original_of_a_letter_is_not_taken_for_its_copy() -> None:
    """An older intention makes the log be read from before the newer letter was refused."""
    newer = Intended(replace(LETTER, offset=70), VALUE, {0: 10, 1: 90})
    assert found(Lying(1, 70, VALUE), also=(newer,)) == []


def test_letter_that_would_be_refused_again_or_is_cut_or_discarded_does_not_go() -> None:
    assert why_not(LETTER, VALUE) == ""
    assert "only the first 9 of its bytes" in why_not(LETTER, VALUE[:9])
    broken = VALUE.replace(b'"http_status":200', b'"http_status":99')
    letter = replace(LETTER, content_sha256=hashlib.sha256(broken).hexdigest())
    assert "still refused, event.invalid: data.http_status" in why_not(letter, broken)
    decision = Decision(3, DISCARD_DEAD_LETTER, "{}", "a test", "ada", 7)
    assert why_not(replace(LETTER, decision=decision), VALUE) == "discarded by ada: a test"
