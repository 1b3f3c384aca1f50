"""Ids: a UUIDv7 carries its time and sorts by it; derived ids depend on content alone."""

import random
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import (
    content_hash,
    derived_entropy,
    derived_hex,
    derived_uuid,
    digest_of_hashes,
    format_ms,
    parse_ms,
    range_sha256,
    uuid7,
    uuid7_unix_ms,
)

INSTANTS_MS = st.integers(0, 253_402_300_799_999)
ENTROPY = st.integers(0, 2**80)
HASHES = st.lists(st.binary(min_size=16, max_size=16), max_size=20)


@given(unix_ms=st.integers(0, 2**48 - 1), entropy=ENTROPY)
def test_uuid7_gives_its_time_back(unix_ms: int, entropy: int) -> None:
    event_id = uuid7(unix_ms, entropy)
    parsed = uuid.UUID(event_id)
    assert uuid7_unix_ms(event_id) == unix_ms
    assert (parsed.version, parsed.variant, str(parsed)) == (7, uuid.RFC_4122, event_id)


@given(first=INSTANTS_MS, second=INSTANTS_MS, entropy=st.tuples(ENTROPY, ENTROPY))
def test_uuid7_sorts_by_time(first: int, second: int, entropy: tuple[int, int]) -> None:
    if first < second:
        assert uuid7(first, entropy[0]) < uuid7(second, entropy[1])


@given(unix_ms=INSTANTS_MS, entropy=ENTROPY, bit=st.integers(0, 73))
def test_uuid7_uses_each_of_its_74_bits(unix_ms: int, entropy: int, bit: int) -> None:
    assert uuid7(unix_ms, entropy) != uuid7(unix_ms, entropy ^ (1 << bit))


@pytest.mark.parametrize("unix_ms", [-1, 2**48])
def test_uuid7_refuses_a_time_it_cannot_carry(unix_ms: int) -> None:
    with pytest.raises(ValueError, match=str(unix_ms)):
        uuid7(unix_ms, 0)


@given(unix_ms=INSTANTS_MS)
def test_parse_is_the_inverse_of_format(unix_ms: int) -> None:
    assert parse_ms(format_ms(unix_ms)) == unix_ms


@given(first=INSTANTS_MS, second=INSTANTS_MS)
def test_formatted_times_sort_like_instants(first: int, second: int) -> None:
    assert (format_ms(first) < format_ms(second)) == (first < second)


@pytest.mark.parametrize(
    "text",
    [
        "2026-02-30T00:00:00.000Z",
        "2026-01-01T24:00:00.000Z",
        "2026-06-30T23:59:60.000Z",
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00.000+00:00",
        "2026-01-01T00:00:00.000Z\n",
        "0000-01-01T00:00:00.000Z",
    ],
)
def test_what_is_no_instant_of_ours_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_ms(text)


@given(parts=st.lists(st.text(max_size=8), max_size=4), at=st.integers(0, 3))
def test_derived_ids_are_framed(parts: list[str], at: int) -> None:
    """Moving a character from one part to the next makes another id."""
    if len(parts) > at + 1 and parts[at]:
        moved = [*parts]
        moved[at], moved[at + 1] = parts[at][:-1], parts[at][-1] + parts[at + 1]
        assert derived_hex(*moved) != derived_hex(*parts)
        assert derived_uuid(*moved) != derived_uuid(*parts)
    assert derived_uuid(*parts) == derived_uuid(*parts)
    assert uuid.UUID(derived_uuid(*parts)).version == 8


def test_derived_ids_never_change() -> None:
    """These values are in ledgers: a change here makes every replay write other rows."""
    assert derived_uuid("host", "1") == "341f8f38-2557-8cc9-b2b9-2c4bcf7a2d07"
    assert derived_entropy("host", "1") == 246145226215110621131449
    assert content_hash(b"event").hex() == "b8e1f80bd70ae0784c7855a451731b74"


@given(hashes=HASHES, seed=st.integers())
def test_digest_of_a_set_ignores_order(hashes: list[bytes], seed: int) -> None:
    shuffled = [*hashes]
    random.Random(seed).shuffle(shuffled)
    assert digest_of_hashes(shuffled) == digest_of_hashes(hashes)


@given(hashes=HASHES.filter(bool), extra=st.binary(min_size=16, max_size=16))
def test_digest_notices_one_event_more_or_fewer(hashes: list[bytes], extra: bytes) -> None:
    whole = digest_of_hashes(hashes)
    assert digest_of_hashes([*hashes, extra]) != whole
    assert digest_of_hashes(hashes[1:]) != whole
    assert digest_of_hashes([*hashes, hashes[0]]) != whole


@given(hashes=HASHES.filter(lambda hashes: len(set(hashes)) > 1))
def test_range_digest_depends_on_order(hashes: list[bytes]) -> None:
    turned = [*hashes[1:], hashes[0]]
    if turned != hashes:
        assert range_sha256(turned) != range_sha256(hashes)
