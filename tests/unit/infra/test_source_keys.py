"""What becomes of a source's keys when they are rotated, revoked and suspected."""

import pytest

from infra.source_keys import (
    REVOKE_KEY,
    ROTATE_KEY,
    KeyDecision,
    KeyTerm,
    SourceKeys,
    revocation_subject,
    rotation_subject,
    source_keys,
    suspicion_subject,
)
from schemas.units import SEQUENCE_MAX

FIRST, SECOND, THIRD = ("a" * 64, "b" * 64, "c" * 64)


def rotated(key: str, first: int) -> tuple[str, str]:
    return ROTATE_KEY, rotation_subject("s", key, first)


def revoked(through: int) -> tuple[str, str]:
    return REVOKE_KEY, revocation_subject("s", through, 5)


def suspected(first: int) -> tuple[str, str]:
    return REVOKE_KEY, suspicion_subject("s", first)


def after(*decided: tuple[str, str]) -> SourceKeys:
    return source_keys(FIRST, [KeyDecision(n, *one) for n, one in enumerate(decided, 1)])


def test_registered_key_vouches_for_everything() -> None:
    assert after().trusted() == [KeyTerm(FIRST, 1, SEQUENCE_MAX)]
    assert after().state == "trusted"


def test_each_key_vouches_for_its_own_stretch() -> None:
    keys = after(rotated(SECOND, 10), rotated(THIRD, 20))
    assert keys.trusted() == [KeyTerm(FIRST, 1, 9), KeyTerm(SECOND, 10, 19), KeyTerm(THIRD, 20)]
    assert keys.terms[0].covers(1, 9)
    assert not keys.terms[0].covers(5, 10)
    assert not keys.terms[1].covers(9, 12)


def test_revocation_cuts_every_key_and_the_latest_one_counts() -> None:
    keys = after(rotated(SECOND, 10), revoked(15))
    assert keys.trusted() == [KeyTerm(FIRST, 1, 9), KeyTerm(SECOND, 10, 15)]
    assert after(rotated(SECOND, 10), revoked(15), revoked(30)).trusted()[-1].last == 30
    assert after(rotated(SECOND, 10), revoked(7)).trusted() == [KeyTerm(FIRST, 1, 7)]
    assert after(revoked(0)).trusted() == []


def test_suspicion_takes_nothing_away_until_it_is_decided() -> None:
    keys = after(suspected(4))
    assert (keys.suspected_from, keys.suspected_by, keys.state) == (4, 1, "compromised")
    assert keys.trusted() == [KeyTerm(FIRST, 1)]
    decided = after(suspected(4), revoked(9))
    assert (decided.suspected_from, decided.trusted_through, decided.state) == (None, 9, "revoked")


def test_source_goes_on_under_a_new_key_behind_what_is_trusted() -> None:
    keys = after(suspected(4), revoked(9), rotated(SECOND, 10))
    assert keys.trusted() == [KeyTerm(FIRST, 1, 9), KeyTerm(SECOND, 10)]
    assert keys.state == "trusted"


@pytest.mark.parametrize(
    ("decided", "message"),
    [
        ([rotated(SECOND, 1)], "from_sequence is 2 to"),
        ([rotated(SECOND, 10), rotated(THIRD, 10)], "must lie behind 10"),
        ([revoked(9), rotated(SECOND, 9)], "must lie behind 9"),
        ([rotated(FIRST, 10)], "a key is used once"),
        ([rotated("ab", 10)], "64 hex digits"),
        ([suspected(4), rotated(SECOND, 10)], "compromised"),
        ([(REVOKE_KEY, '{"source":"s","trusted_through":"4","revoked_at_ms":5}')], "an integer"),
        ([(REVOKE_KEY, '{"source":"s","trusted_through":4}')], "revoked_at_ms"),
        ([(ROTATE_KEY, "[]")], "decision 1"),
    ],
)
def test_decision_that_contradicts_or_says_too_little_is_refused(
    decided: list[tuple[str, str]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        after(*decided)
