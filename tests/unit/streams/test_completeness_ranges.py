"""What signed ranges prove, and how precisely they name what is wrong."""

from array import array

from streams.completeness_ranges import RangeClaim, RangeVerifier, Records
from tests.support.events import HOUR_MS, OCTOBER_MS, HostScript, one_busy_hour, rewritten
from tests.support.proving import prove

MINUTE_MS = 60_000


def two_ranges() -> HostScript:
    """Sequences: 1 opened, 2-3 requests, 4 interval, 5-6 requests, 7 interval, 8 closed."""
    host = HostScript("a")
    for minute in (1, 2):
        host.request(OCTOBER_MS + minute * MINUTE_MS)
    host.interval(OCTOBER_MS + 10 * MINUTE_MS)
    for minute in (11, 12):
        host.request(OCTOBER_MS + minute * MINUTE_MS)
    host.interval(OCTOBER_MS + 20 * MINUTE_MS)
    host.closed(OCTOBER_MS + 20 * MINUTE_MS)
    return host


def key_of(host: HostScript) -> str:
    return host.key.public_key_hex()


def test_complete_source_is_proven_up_to_its_closing() -> None:
    host = two_ranges()
    found = prove(host.records, key_of(host))
    assert found.spans == [(1, 7)]
    assert found.problems == []
    assert found.ranges_proven == 3
    assert (found.records_seen, found.last_seen) == (8, 8)
    assert found.usage_by_hour == {OCTOBER_MS // HOUR_MS: 4}


def test_missing_records_are_named_and_the_other_ranges_stay_proven() -> None:
    host = two_ranges()
    found = prove([one for one in host.records if one.event.sequence not in (2, 3)], key_of(host))
    assert found.spans == [(4, 7)]
    assert [one.sequence for one in found.problems] == [2]
    assert "sequences 2 to 3 are missing" in found.problems[0].text
    assert "(2 records)" in found.problems[0].text
    assert (found.lost, found.holes) == (2, [(2, 3)])


def test_missing_interval_leaves_its_range_unsigned() -> None:
    host = two_ranges()
    found = prove([one for one in host.records if one.event.sequence != 4], key_of(host))
    texts = [one.text for one in found.problems]
    assert [one.sequence for one in found.problems] == [1, 4]
    assert "sequences 1 to 3 are not covered by any range" in texts[0]
    assert "sequence 4 is missing" in texts[1]


def test_altered_record_is_not_what_the_source_signed() -> None:
    host = two_ranges()
    host.records[4] = rewritten(host.records[4], input_uncached_tokens=1)
    found = prove(host.records, key_of(host))
    assert found.spans == [(1, 3), (7, 7)]
    assert "sequences 4 to 6 are not what the source signed" in found.problems[0].text


def test_record_beside_the_signed_one_is_rejected() -> None:
    host = two_ranges()
    forged = rewritten(host.records[4], input_uncached_tokens=1)
    found = prove([*host.records, forged], key_of(host))
    assert found.problems == []
    assert found.rejected == {forged.content_hash}
    assert found.spans == [(1, 7)]
    assert found.usage_by_hour == {OCTOBER_MS // HOUR_MS: 4}


def test_copies_of_a_record_are_one() -> None:
    host = two_ranges()
    found = prove([*host.records, *host.records], key_of(host))
    assert (found.problems, found.rejected, found.spans) == ([], set(), [(1, 7)])


def test_too_many_candidates_are_a_problem_and_not_an_endless_search() -> None:
    host = two_ranges()
    forged = [rewritten(host.records[4], input_uncached_tokens=n) for n in range(5)]
    found = prove([*host.records, *forged], key_of(host), max_candidates=5)
    assert "6 combinations of records claim these sequences (crowded from 5)" in (
        found.problems[0].text
    )


def test_range_of_another_key_proves_nothing() -> None:
    host = two_ranges()
    found = prove(host.records, key_of(HostScript("other")))
    assert (found.spans, found.ranges_proven) == ([], 0)


def test_two_different_ranges_from_one_sequence_are_a_problem() -> None:
    host = two_ranges()
    verifier = RangeVerifier(
        [RangeClaim(1, 3, "a" * 64), RangeClaim(1, 4, "b" * 64)], max_candidates=8
    )
    assert "two signed ranges overlap at sequence 1" in verifier.finish().problems[0].text
    assert host.records


def test_declared_loss_excuses_the_hole_and_its_range_is_no_longer_proven() -> None:
    host = two_ranges()
    found = prove(
        [one for one in host.records if one.event.sequence != 2], key_of(host), losses=[(2, 2)]
    )
    assert (found.problems, found.lost) == ([], 0)
    assert found.unproven == [(1, 3)]
    assert found.spans == [(4, 7)]


def test_declared_loss_of_an_interval_excuses_the_range_that_it_carried() -> None:
    host = two_ranges()
    found = prove(
        [one for one in host.records if one.event.sequence != 4], key_of(host), losses=[(4, 4)]
    )
    assert found.problems == []
    assert found.unproven == [(1, 3), (4, 6)]
    assert found.spans == [(7, 7)]


def test_declared_loss_of_a_part_of_a_hole_leaves_the_rest() -> None:
    host = two_ranges()
    found = prove(
        [one for one in host.records if one.event.sequence not in (1, 2, 3)],
        key_of(host),
        losses=[(2, 2)],
    )
    assert found.holes == [(1, 1), (3, 3)]


def test_records_behind_the_last_range_are_pending_and_no_problem() -> None:
    host = two_ranges()
    found = prove(host.records[:6], key_of(host))
    assert (found.problems, found.spans) == ([], [(1, 3)])
    assert found.last_seen == 6


def test_source_with_nothing_but_its_opening_has_no_problem() -> None:
    host = HostScript("a")
    found = prove(host.records, key_of(host))
    assert (found.problems, found.spans, found.records_seen) == ([], [], 1)


def test_dead_letter_is_proven_by_its_content_and_not_billed() -> None:
    host = one_busy_hour(requests=1)
    claims = prove(host.records, key_of(host))
    assert claims.spans == [(1, 3)]
    verifier = RangeVerifier(_claims(host), max_candidates=8)
    hashes = b"".join(one.content_hash for one in host.records)
    verifier.feed(Records(array("I", [1, 2, 3, 4]), hashes, array("I", [0, 1, 0, 0])))
    found = verifier.finish()
    assert found.dead_letters == [2]
    assert not found.usage_by_hour


def test_hole_of_billions_is_named_without_being_counted_out() -> None:
    verifier = RangeVerifier([RangeClaim(1, 2_000_000_000, "a" * 64)], max_candidates=8)
    verifier.feed(Records(array("I", [1]), b"\0" * 16, array("I", [0])))
    assert verifier.finish().holes == [(2, 2_000_000_000)]


def _claims(host: HostScript) -> list[RangeClaim]:
    from tests.support.proving import signed_claims

    return signed_claims(host.records, key_of(host))
