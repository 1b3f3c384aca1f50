"""Hours close on a real ledger and store: what is published, what is held, and why."""

import pytest

from infra.decision_kinds import DECLARE_LOSS
from infra.store.decisions import append_decision
from infra.store.hours import period_problems
from infra.store.runs import runs_between
from schemas.ids import derived_entropy, digest_of_hashes, uuid7
from schemas.periods import HOUR, parse_hour, parse_period
from tests.support.closing import Books, first, states
from tests.support.events import (
    HOUR_MS,
    OCTOBER_MS,
    HostScript,
    Record,
    one_busy_hour,
    rewritten,
    to_bytes,
)

OCTOBER = parse_period("2026-10")
MINUTE_MS = 60_000


def of_hour(host: HostScript) -> list[bytes]:
    return [one.content_hash for one in host.records if one.topic == "usage.v1"]


def test_complete_hour_is_published_with_the_digest_of_its_events(books: Books) -> None:
    host = one_busy_hour()
    books.register(host)
    books.writer.write(host.records)

    closing = books.close()

    assert states(closing) == ["published"] * 3
    assert first(closing).sums.digest == digest_of_hashes(of_hour(host))
    assert books.view() == (5, 500, 200_000_010)
    assert closing.offsets == {"capacity.v1/0": 1, "control.v1/0": 2, "usage.v1/0": 5}
    (run,) = runs_between(books.store, OCTOBER.start, OCTOBER.start + 3 * HOUR)
    assert run.header.run_id == first(closing).run_id
    assert (run.header.events, run.header.rows, run.position) == (5, 1, 1)


def test_closing_again_publishes_nothing_new(books: Books) -> None:
    host = one_busy_hour()
    books.register(host)
    books.writer.write(host.records)
    before = books.close()
    books.writer.write(host.records)

    again = books.close()

    assert not first(again).changed
    assert first(again).run_id == first(before).run_id
    assert again.copies() == 5
    assert books.view() == (5, 500, 200_000_010)
    assert books.client.query("SELECT count() FROM rollup_runs").first_row == (1,)


def test_whole_period_closes_early_once_its_sources_are_closed(books: Books) -> None:
    host = one_busy_hour()
    books.register(host)
    books.writer.write(host.records)

    closing = books.close(period=OCTOBER)

    assert len(closing.hours) == 744
    assert period_problems(books.store, OCTOBER) == []


@pytest.mark.parametrize("lost", [1, 2, 4, 7, 8])
def test_lost_event_is_held_and_named(books: Books, lost: int) -> None:
    host = one_busy_hour()
    books.register(host)
    books.writer.write(one for one in host.records if one.event.sequence != lost)

    closing = books.close(hours=1)

    assert states(closing) == ["held"]
    reason = first(closing).reason
    assert host.source in reason
    assert host.host in reason
    if lost < 8:
        assert f"sequence {lost} is missing" in reason
        assert closing.lost() == 1
    else:
        assert "still open" in reason
    assert books.view() == (0, 0, 0)


def test_lost_event_that_comes_late_releases_its_hour(books: Books) -> None:
    host = one_busy_hour()
    books.register(host)
    books.writer.write(one for one in host.records if one.event.sequence != 3)
    assert states(books.close(hours=1)) == ["held"]

    books.writer.write([host.records[2]])

    assert states(books.close(hours=1)) == ["published"]
    assert books.view() == (5, 500, 200_000_010)


def test_late_event_recloses_its_own_hour(books: Books) -> None:
    early, late = one_busy_hour("a"), one_busy_hour("b", requests=2)
    next_hour = one_busy_hour("c", opened_ms=OCTOBER_MS + HOUR_MS)
    books.register(early, late, next_hour)
    books.writer.write([*early.records, *next_hour.records])
    held = books.close()
    assert "nothing of it is here" not in first(held).reason
    before = [one.run_id for one in held.hours]

    books.writer.write(late.records)
    after = books.close()

    assert [one.changed for one in after.hours] == [True, False, False]
    assert [one.position for one in after.hours] == [2, 1, 0]
    assert [one.run_id for one in after.hours][1:] == before[1:]
    assert first(after).events == 7
    assert books.view()[0] == 12
    old = runs_between(books.store, OCTOBER.start, OCTOBER.start + HOUR)
    assert [run.position for run in old] == [1, 2]
    kept = books.client.query("SELECT uniqExact(run_id) FROM usage_hourly_runs").first_row
    assert kept == (3,)


def test_forged_event_of_an_unregistered_source_is_never_rolled_up(books: Books) -> None:
    host, stranger = one_busy_hour("a"), one_busy_hour("stranger")
    books.register(host)
    books.writer.write([*host.records, *stranger.records])

    closing = books.close(hours=1)

    assert states(closing) == ["published"]
    assert first(closing).excluded == 5
    assert books.view() == (5, 500, 200_000_010)


def forged(record: Record, sequence: int, *, salt: str = "forged") -> Record:
    """A request that its source never sent, under the source's name at one of its sequences."""
    at_ms = OCTOBER_MS + 5 * MINUTE_MS
    event = record.event.model_copy(
        update={
            "id": uuid7(at_ms, derived_entropy(salt, str(sequence))),
            "sequence": sequence,
            "time": "2026-10-01T00:05:00.000Z",
        }
    )
    return Record(record.topic, record.key, to_bytes(event), event)


@pytest.mark.parametrize("sequence", [3, 8, 99])
def test_event_forged_under_a_registered_source_is_excluded_and_holds_nothing(
    books: Books, sequence: int
) -> None:
    host = one_busy_hour()
    books.register(host)
    books.writer.write([*host.records, forged(host.records[2], sequence)])

    closing = books.close(hours=1)

    assert states(closing) == ["published"]
    assert first(closing).excluded == 1
    assert first(closing).sums.digest == digest_of_hashes(of_hour(host))


def test_altered_event_that_replaced_the_true_one_is_held(books: Books) -> None:
    host = one_busy_hour()
    books.register(host)
    host.records[2] = rewritten(host.records[2], input_uncached_tokens=1)
    books.writer.write(host.records)

    closing = books.close(hours=1)

    assert states(closing) == ["held"]
    assert "sequences 1 to 6 are not what the source signed" in first(closing).reason


def test_declared_loss_releases_the_hour_and_bills_only_what_is_still_proven(books: Books) -> None:
    host = HostScript("a")
    host.request(OCTOBER_MS + MINUTE_MS)
    host.interval(OCTOBER_MS + 2 * MINUTE_MS)
    host.request(OCTOBER_MS + 3 * MINUTE_MS)
    host.request(OCTOBER_MS + 4 * MINUTE_MS)
    host.interval(OCTOBER_MS + 5 * MINUTE_MS)
    host.closed(OCTOBER_MS + 5 * MINUTE_MS)
    books.register(host)
    books.writer.write(one for one in host.records if one.event.sequence != 4)
    assert "sequence 4 is missing" in first(books.close(hours=1)).reason

    subject = f'{{"source":"{host.source}","sequence_first":4,"sequence_last":4}}'
    _decide(books, DECLARE_LOSS, subject)
    closing = books.close(hours=1)

    assert states(closing) == ["published"]
    assert closing.lost() == 0
    assert first(closing).excluded == 1
    assert first(closing).events == 1


def _decide(books: Books, kind: str, subject: str) -> None:
    append_decision(
        books.store, kind=kind, subject=subject, reason="test", decided_by="test", now_ms=1
    )


def test_dead_lettered_record_counts_as_seen(books: Books) -> None:
    host = one_busy_hour()
    books.register(host)
    books.writer.write(one for one in host.records if one.event.sequence != 3)
    books.writer.write_dead_letter(host.records[2])

    closing = books.close(hours=1)

    assert states(closing) == ["published"]
    assert first(closing).events == 4


def test_usage_that_a_source_declares_lost_is_shown_and_holds_nothing(books: Books) -> None:
    host = HostScript("a")
    host.lost(OCTOBER_MS + MINUTE_MS, requests=7)
    host.interval(OCTOBER_MS + 2 * MINUTE_MS)
    host.closed(OCTOBER_MS + 2 * MINUTE_MS)
    books.register(host)
    books.writer.write(host.records)

    closing = books.close(hours=1)

    assert states(closing) == ["published"]
    assert closing.lost_requests() == 7


def test_part_from_another_host_adds_its_gpu_time_to_its_request(books: Books) -> None:
    door, engine = HostScript("door"), HostScript("engine", host="host-2")
    request = door.request(OCTOBER_MS + MINUTE_MS)
    engine.part_of(request)
    for host in (door, engine):
        host.interval(OCTOBER_MS + 2 * MINUTE_MS)
        host.closed(OCTOBER_MS + 2 * MINUTE_MS)
    books.register(door, engine)
    books.writer.write([*door.records, *engine.records])

    closing = books.close(hours=1)

    assert states(closing) == ["published"]
    assert books.view() == (1, 100, 47_000_000)
    assert first(closing).sums.measure("generated_tokens") == 20
    assert first(closing).sums.digest == digest_of_hashes([*of_hour(door), *of_hour(engine)])


def test_part_without_its_request_holds_the_hour(books: Books) -> None:
    nowhere = HostScript("nowhere").request(OCTOBER_MS + MINUTE_MS)
    engine = HostScript("engine")
    engine.part_of(nowhere)
    engine.interval(OCTOBER_MS + 2 * MINUTE_MS)
    engine.closed(OCTOBER_MS + 2 * MINUTE_MS)
    books.register(engine)
    books.writer.write(engine.records)

    closing = books.close(hours=1)

    assert states(closing) == ["held"]
    assert f"parts of request {nowhere.event.id} are there without" in first(closing).reason


def test_open_source_closes_the_hours_that_its_low_watermark_has_passed(books: Books) -> None:
    host = HostScript("a")
    host.request(OCTOBER_MS + MINUTE_MS)
    host.interval(OCTOBER_MS + HOUR_MS)
    host.request(OCTOBER_MS + HOUR_MS + MINUTE_MS)
    oldest_ms = OCTOBER_MS + HOUR_MS + 10 * MINUTE_MS
    host.interval(OCTOBER_MS + HOUR_MS + 20 * MINUTE_MS, oldest_open_ms=oldest_ms)
    books.register(host)
    books.writer.write(host.records)

    closing = books.close()

    assert states(closing) == ["published", "held", "held"]
    assert "still open" in closing.hours[1].reason
    assert "2026-10-01T01:00:00.000Z" in closing.hours[1].reason
    assert books.view()[0] == 1


def test_registered_source_of_which_nothing_came_holds_the_hours_after_it(books: Books) -> None:
    host, silent = one_busy_hour("a"), HostScript("silent", host="host-9")
    books.register(host)
    books.register(silent, at_ms=OCTOBER_MS + HOUR_MS)
    books.writer.write(host.records)

    closing = books.close()

    assert states(closing) == ["published", "held", "held"]
    assert "host-9): registered at 2026-10-01T01:00:00.000Z" in closing.hours[1].reason


def test_without_any_source_only_hours_past_the_grace_time_close(books: Books) -> None:
    assert states(books.close(hours=2)) == ["published"] * 2
    november = parse_period("2026-11")

    closing = books.close(period=november)

    assert states(closing)[: 22 * 24] == ["published"] * 22 * 24
    assert states(closing)[22 * 24 :] == ["held"] * 8 * 24
    assert "no source is known" in closing.hours[-1].reason


def test_hour_in_the_future_closes_once_every_source_is_closed(books: Books) -> None:
    host = one_busy_hour()
    books.register(host, at_ms=OCTOBER_MS)
    books.writer.write(host.records)

    closing = books.close(period=parse_hour("2026-12-01T00"))

    assert states(closing) == ["published"]
    assert closing.sources == []
