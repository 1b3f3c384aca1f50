"""What keeps an hour from closing, on a real ledger: who is missing what, and what fills it."""

from typing import Any

import pytest

from infra.api_keys import KeyTerms
from infra.store.api_keys import CREATION_ENTROPY_BYTES, create_key
from infra.store.decisions import decisions_after
from infra.store.end_users import KEY_BYTES, Erasure, erase, pseudonyms_of
from schemas.errors import ContractError
from schemas.periods import HOUR, Period, parse_period
from schemas.units import SEQUENCE_MAX
from streams.completeness_look import Look, look_at
from streams.declare_loss import DeclaredLoss, Loss, declare_loss
from streams.settings import StreamSettings
from tests.support.closing import NOVEMBER_24_MS, Books, first, states
from tests.support.events import HOUR_MS, OCTOBER_MS, HostScript, Record, one_busy_hour

MINUTE_MS = 60_000
OCTOBER = parse_period("2026-10")
THREE_HOURS = Period(OCTOBER.start, OCTOBER.start + 3 * HOUR, "three hours")


def look(books: Books, period: Period = THREE_HOURS) -> Look:
    return look_at(books.client, books.store, period, clock=books.clock)


def declare(books: Books, source: str, **changes: Any) -> DeclaredLoss:
    asked = {"first": None, "last": None, "decided_by": "ann", "reason": "host-1 burnt"} | changes
    loss = Loss(source, **asked)
    return declare_loss(books.client, books.store, THREE_HOURS, loss, clock=books.clock)


def without(host: HostScript, *sequences: int) -> list[Record]:
    return [one for one in host.records if one.event.sequence not in sequences]


def living(name: str = "a", host: str = "host-1") -> HostScript:
    """Two requests in the first hour, which is proven; two in the second that no range covers.

    Sequences: 1 opened, 2 and 3 requests, 4 and 5 intervals, 6 and 7 requests.
    """
    script = HostScript(name, host=host)
    for minute in (1, 2):
        script.request(OCTOBER_MS + minute * MINUTE_MS)
    script.interval(OCTOBER_MS + HOUR_MS)
    script.interval(OCTOBER_MS + HOUR_MS + MINUTE_MS // 2)
    for minute in (61, 62):
        script.request(OCTOBER_MS + minute * MINUTE_MS)
    return script


def test_lost_tail_is_named_and_holds_only_what_it_may_belong_to(books: Books) -> None:
    host = living()
    host.interval(OCTOBER_MS + 2 * HOUR_MS)
    books.register(host)
    books.writer.write(without(host, 7, 8))

    assert states(books.close()) == ["published", "held", "held"]
    (tail,) = look(books).holes
    assert (tail.source, tail.host, tail.replicas) == (host.source, "host-1", ("replica-1",))
    assert (tail.first, tail.last) == (5, None)

    books.writer.write([host.records[7]])
    assert states(books.close()) == ["published", "held", "held"]
    hole, tail = look(books).holes
    assert (hole.first, hole.last) == (7, 7)
    assert (tail.first, tail.last) == (8, None)


def test_source_that_died_for_good_ends_by_declaration(books: Books) -> None:
    host = living()
    host.interval(OCTOBER_MS + HOUR_MS + 10 * MINUTE_MS, oldest_open_ms=OCTOBER_MS + HOUR_MS)
    unseen = host.request(OCTOBER_MS + HOUR_MS + 20 * MINUTE_MS)
    books.register(host)
    books.writer.write(one for one in host.records if one is not unseen)
    assert states(books.close()) == ["published", "held", "held"]

    declared = declare(books, host.source)

    assert (declared.first, declared.last) == (8, SEQUENCE_MAX)
    closing = books.close()
    assert states(closing) == ["published"] * 3
    assert [one.events for one in closing.hours] == [2, 2, 0]
    assert [one.excluded for one in closing.hours] == [0, 0, 0]
    (kept,) = decisions_after(books.store, 0)
    assert (kept.decided_by, kept.reason) == ("ann", "host-1 burnt")
    assert look(books).declared == [kept]


def test_gone_source_that_comes_back_is_billed_after_all(books: Books) -> None:
    host = living()
    books.register(host)
    books.writer.write(host.records[:4])
    declare(books, host.source)
    assert [one.events for one in books.close().hours] == [2, 0, 0]

    host.interval(OCTOBER_MS + 2 * HOUR_MS)
    host.closed(OCTOBER_MS + 2 * HOUR_MS)
    books.writer.write(host.records[4:])
    again = books.close()

    assert [one.events for one in again.hours] == [2, 2, 0]
    assert [one.changed for one in again.hours] == [False, True, False]


def test_source_of_which_nothing_ever_came_ends_by_declaration(books: Books) -> None:
    host, silent = one_busy_hour("a"), HostScript("silent", host="host-9")
    books.register(host)
    books.register(silent, at_ms=OCTOBER_MS)
    books.writer.write(host.records)
    assert states(books.close()) == ["held"] * 3
    assert [(one.host, one.first, one.last) for one in look(books).holes] == [("host-9", 1, None)]

    declare(books, silent.source)

    assert states(books.close()) == ["published"] * 3


def test_source_that_nobody_registered_is_named_and_not_billed(books: Books) -> None:
    host, stranger = one_busy_hour("a"), one_busy_hour("b", requests=4)
    books.register(host)
    books.writer.write([*host.records, *without(stranger, 1)])
    books.writer.write([stranger.records[0]])

    (named,) = look(books).strangers

    assert (named.source, named.host, named.requests) == (stranger.source, "host-1", 4)
    assert first(books.close()).events == 5
    books.register(stranger)
    assert look(books).strangers == []
    assert first(books.close()).events == 9


def test_event_from_a_spool_that_was_found_days_later_recloses_its_own_hour_only(
    books: Books,
) -> None:
    early, later = one_busy_hour("a"), one_busy_hour("b", opened_ms=OCTOBER_MS + HOUR_MS)
    books.register(early, later)
    books.writer.write([*without(early, 3), *later.records])
    assert states(books.close()) == ["held"] * 3
    assert [(one.first, one.last) for one in look(books).holes] == [(3, 3)]
    declare(books, early.source, first=3, last=3)
    published = books.close()
    assert [one.events for one in published.hours] == [0, 5, 0]

    books.clock.advance(5 * 24 * HOUR_MS * 1_000_000)
    books.writer.write([early.records[2]])
    again = books.close()

    assert [one.events for one in again.hours] == [5, 5, 0]
    assert [one.changed for one in again.hours] == [True, False, False]
    assert [one.position for one in again.hours] == [1, 1, 0]
    assert look(books).holes == []


def test_of_two_replicas_the_one_with_the_hole_is_named(books: Books) -> None:
    whole, torn = one_busy_hour("a"), HostScript("b", host="host-2")
    for minute in (1, 2, 3):
        torn.request(OCTOBER_MS + minute * MINUTE_MS, replica="replica-2")
    torn.interval(OCTOBER_MS + 30 * MINUTE_MS, replica="replica-2")
    torn.request(OCTOBER_MS + 31 * MINUTE_MS, replica="replica-2")
    torn.interval(OCTOBER_MS + HOUR_MS, replica="replica-2")
    torn.closed(OCTOBER_MS + HOUR_MS)
    books.register(whole, torn)
    books.writer.write([*whole.records, *without(torn, 6)])

    reason = first(books.close()).reason

    assert "host host-2): sequence 6 is missing" in reason
    assert whole.source not in reason
    (hole,) = look(books).holes
    assert (hole.host, hole.replicas, hole.first, hole.last) == ("host-2", ("replica-2",), 6, 6)


def test_dead_letter_fills_its_hole_and_what_is_no_hole_cannot_be_declared_lost(
    books: Books,
) -> None:
    host = one_busy_hour()
    books.register(host)
    books.writer.write(without(host, 3))
    books.writer.write_dead_letter(host.records[2])
    assert look(books).holes == []

    for changes, message in (
        ({"first": 3, "last": 3}, "are not all missing; missing are: none"),
        ({}, "said itself that it ended, with sequence 8"),
        ({"reason": " "}, "why: a declared loss says"),
    ):
        with pytest.raises(ContractError, match=message):
            declare(books, host.source, **changes)
    with pytest.raises(ContractError, match="is not registered, or does not matter"):
        declare(books, HostScript("unknown").source)
    assert decisions_after(books.store, 0) == []


def test_only_the_whole_unsigned_tail_can_be_declared_gone(books: Books) -> None:
    host = living()
    books.register(host)
    books.writer.write(host.records)
    with pytest.raises(ContractError, match="only be gone from sequence 5 on, not from 6"):
        declare(books, host.source, first=6)


def test_clock_that_is_ahead_is_named(books: Books) -> None:
    host = HostScript("a", opened_ms=NOVEMBER_24_MS)
    host.request(NOVEMBER_24_MS + 20 * MINUTE_MS)
    host.interval(NOVEMBER_24_MS + 30 * MINUTE_MS)
    books.register(host)
    books.writer.write(host.records)

    (source,) = look(books, parse_period("2026-11")).sources

    (alarm,) = source.clock_alarms
    assert "2 records from sequence 2 on are dated up to 2026-11-24T00:30:00.000Z" in alarm
    assert "1800 s ahead of now" in alarm


def test_clock_that_was_far_behind_is_named_and_its_event_is_no_mere_hole(books: Books) -> None:
    host = HostScript("a")
    host.request(OCTOBER_MS - 20 * 24 * HOUR_MS)
    host.interval(OCTOBER_MS + HOUR_MS)
    host.closed(OCTOBER_MS + HOUR_MS)
    books.register(host)
    books.writer.write(host.records)

    closing = books.close()

    assert states(closing) == ["held"] * 3
    (alarm,) = closing.sources[0].clock_alarms
    assert "1 records from sequence 2 on are dated up to 2026-09-11T00:00:00.000Z" in alarm
    assert "RENTROLL_CLOSE_LOOKBACK_S" in alarm


def test_clock_that_went_back_behind_a_watermark_is_named_and_recloses_the_hour(
    books: Books,
) -> None:
    host = living()
    books.register(host)
    books.writer.write(host.records[:4])
    host.interval(OCTOBER_MS + HOUR_MS + 10 * MINUTE_MS)
    books.writer.write(host.records[4:])
    assert first(books.close()).events == 2
    again = len(host.records)
    host.request(OCTOBER_MS + 59 * MINUTE_MS)
    host.interval(OCTOBER_MS + 2 * HOUR_MS)
    host.closed(OCTOBER_MS + 2 * HOUR_MS)
    books.writer.write(host.records[again:])

    closing = books.close()

    assert (first(closing).events, first(closing).changed) == (3, True)
    (alarm,) = closing.sources[0].clock_alarms
    assert "the request at sequence 9 belongs to 2026-10-01T00:00Z" in alarm
    assert "the clock went back" in alarm


def test_intervals_that_overlap_in_time_are_held_and_named(books: Books) -> None:
    host = HostScript("a")
    host.interval(OCTOBER_MS + 30 * MINUTE_MS)
    start_ns = (OCTOBER_MS + 29 * MINUTE_MS) * 1_000_000
    host.interval(OCTOBER_MS + HOUR_MS, start_unix_ns=start_ns, **_owned(31))
    host.closed(OCTOBER_MS + HOUR_MS)
    books.register(host)
    books.writer.write(host.records)

    reason = first(books.close()).reason

    assert "they overlap by 60000000000 ns: did the host's clock go back?" in reason


def _owned(minutes: int) -> dict[str, int]:
    wall_ns = minutes * MINUTE_MS * 1_000_000
    return {"owned_ns": wall_ns, "idle_ns": wall_ns}


def two_sources(books: Books, *, write: bool = True) -> tuple[HostScript, HostScript]:
    """One engine's life in two sources; the part of ordinal 2 ended in one and came in the next."""
    one = HostScript("one")
    one.request(OCTOBER_MS + MINUTE_MS)
    one.interval(OCTOBER_MS + 9 * MINUTE_MS)
    one.interval(OCTOBER_MS + 10 * MINUTE_MS)
    one.request(OCTOBER_MS + 11 * MINUTE_MS)
    two = one.followed_by("two", OCTOBER_MS + 12 * MINUTE_MS)
    two.request(OCTOBER_MS + 20 * MINUTE_MS)
    two.interval(OCTOBER_MS + HOUR_MS)
    two.closed(OCTOBER_MS + HOUR_MS)
    books.register(one, two)
    if write:
        books.writer.write([*one.records, *two.records])
    return one, two


def test_engine_that_outlives_its_source_is_proven_over_both(books: Books) -> None:
    two_sources(books)
    closing = books.close()
    assert states(closing) == ["published"] * 3
    assert first(closing).events == 3
    assert [
        line.difference_ns() for one in closing.sources for line in one.time_lines.values()
    ] == [
        0,
        0,
    ]


def test_part_lost_with_the_older_source_is_missed_by_the_interval_of_the_next(
    books: Books,
) -> None:
    one, two = two_sources(books, write=False)
    books.writer.write([*without(one, 5), *two.records])
    reason = first(books.close()).reason
    assert "(host host-1): sequence 5 is missing" in reason
    assert "1 of its 2 parts are missing" in reason

    declare(books, one.source, first=5, last=5)

    assert states(books.close()) == ["published"] * 3


def test_engine_goes_on_from_a_source_that_closed_before_the_first_hour(books: Books) -> None:
    one = HostScript("one")
    one.request(OCTOBER_MS + MINUTE_MS)
    one.interval(OCTOBER_MS + 10 * MINUTE_MS)
    two = one.followed_by("two", OCTOBER_MS + 50 * MINUTE_MS)
    two.interval(OCTOBER_MS + HOUR_MS)
    two.request(OCTOBER_MS + HOUR_MS + MINUTE_MS)
    two.interval(OCTOBER_MS + 2 * HOUR_MS)
    two.closed(OCTOBER_MS + 2 * HOUR_MS)
    books.register(one, two)
    books.writer.write([*one.records, *two.records])
    second = Period(OCTOBER.start + HOUR, OCTOBER.start + 2 * HOUR, "second hour")

    closing = books.close(period=second)

    assert states(closing) == ["published"]
    assert [one.source for one in closing.sources] == [two.source]
    assert first(closing).events == 1


def test_host_cannot_upset_the_identity_of_another_hosts_engine(books: Books) -> None:
    honest, other = one_busy_hour("a"), HostScript("b", host="host-2")
    other.request(OCTOBER_MS + MINUTE_MS)
    other.interval(OCTOBER_MS + 30 * MINUTE_MS)
    other.engine = honest.engine
    other._ordinal = 2
    other.request(OCTOBER_MS + 31 * MINUTE_MS)
    other.engine = HostScript("b").engine
    other._attributed_ns = 0
    other._ordinal = 1
    other.interval(OCTOBER_MS + HOUR_MS)
    books.register(honest, other)
    books.writer.write([*honest.records, *other.records])

    reason = first(books.close()).reason

    assert honest.source not in reason


def test_many_sources_are_checked_in_batches_with_the_same_result(books: Books) -> None:
    two_sources(books)
    whole = look(books)
    small = StreamSettings(close_batch_intervals=1_000).model_copy(
        update={"close_batch_intervals": 1}
    )
    batched = look_at(books.client, books.store, THREE_HOURS, clock=books.clock, settings=small)
    assert batched == whole
    assert whole.waiting == {}


def test_erasing_an_end_user_changes_no_digest(books: Books) -> None:
    entropy = b"\1" * CREATION_ENTROPY_BYTES
    terms = KeyTerms(
        tenant="acme", project="p", label="", scopes=("inference",), service_tiers=("standard",)
    )
    create_key(books.store, terms, created_by="ada", now_ms=1, entropy=entropy)
    (of_mona,) = pseudonyms_of(books.store, "acme", "mona")
    host = HostScript("a")
    host.request(OCTOBER_MS + MINUTE_MS, end_user=of_mona)
    host.interval(OCTOBER_MS + HOUR_MS)
    host.closed(OCTOBER_MS + HOUR_MS)
    books.register(host)
    books.writer.write(host.records)
    before = first(books.close())

    erasure = Erasure("acme", "mona", "ann", "R-4", 2)
    erase(books.store, erasure, entropy=bytes(range(KEY_BYTES)))
    after = first(books.close())

    assert after.sums == before.sums
    assert (after.run_id, after.changed) == (before.run_id, False)
    assert of_mona not in pseudonyms_of(books.store, "acme", "mona")
    rows = books.client.query("SELECT end_user FROM usage_events FINAL").result_rows
    assert rows == [(of_mona,)]
