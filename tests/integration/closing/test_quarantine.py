"""Copies with other content under one id: seen from both sides, not billed until decided."""

from typing import Any

import pytest

from infra.store.decisions import Decider, decisions_after
from infra.store.runs import runs_between
from schemas.errors import ContractError
from schemas.ids import digest_of_hashes
from schemas.periods import HOUR, parse_period
from streams.close import hour_range
from streams.ledger_alarms import ledger_alarms
from streams.quarantine import (
    QuarantinedEvent,
    differences,
    event_contents,
    quarantined_events,
    settle,
    settled_by_signature,
)
from streams.reclose import reclose
from streams.settings import StreamSettings
from tests.support.closing import Books, first, states
from tests.support.events import (
    OCTOBER_MS,
    HostScript,
    Record,
    one_busy_hour,
    rewritten,
    to_bytes,
)

OCTOBER = parse_period("2026-10")
ADA = Decider("ada", "tampered copy", 7)
MINUTE_MS = 60_000


def altered(record: Record, **envelope: Any) -> Record:
    """The same id with another envelope: another tenant, sequence or source."""
    event = record.event.model_copy(update=envelope)
    return Record(record.topic, record.key, to_bytes(event), event)


def in_quarantine(books: Books, *, settled: bool = False) -> list[QuarantinedEvent]:
    hours = hour_range(OCTOBER)
    return quarantined_events(books.client, books.store, hours, limit=100, settled=settled)


COPIES = {
    "a field": lambda true: rewritten(true, input_uncached_tokens=1),
    "a label": lambda true: rewritten(true, client_request_id="other"),
    "the tenant": lambda true: altered(true, subject="umbrella"),
    "the sequence": lambda true: altered(true, sequence=99),
    "a source that nobody knows": lambda true: altered(true, source=HostScript("stranger").source),
}


@pytest.mark.parametrize("changed", COPIES)
def test_event_that_contradicts_itself_is_not_billed_and_stops_nothing_else(
    books: Books, changed: str
) -> None:
    host = one_busy_hour()
    books.register(host)
    true = host.records[2]
    books.writer.write([*host.records, COPIES[changed](true)])

    closing = books.close(hours=2)

    assert states(closing) == ["published", "published"]
    assert (first(closing).quarantined, first(closing).dropped) == (1, 1)
    assert books.view()[0] == 4
    (found,) = in_quarantine(books)
    assert found.event_id == true.event.id
    assert [one.content_hash for one in found.signed()] == [true.content_hash.hex()]
    assert len(found.contents) == 2
    assert ledger_alarms(books.client, books.store).quarantined == 1


def test_decision_bills_the_true_content_and_a_later_one_takes_it_out_again(books: Books) -> None:
    host = one_busy_hour()
    books.register(host)
    true = host.records[2]
    books.writer.write([*host.records, rewritten(true, input_uncached_tokens=1)])
    before = first(books.close(hours=2))
    found = event_contents(books.client, books.store, true.event.id)

    keep = found.content(true.content_hash.hex()[:6]).content_hash
    settle(books.store, {found.event_id: keep}, ADA)
    (verdict,) = reclose(books.client, books.store, [before.hour_ms], clock=books.clock)

    assert (verdict.changed, verdict.position, verdict.quarantined) == (True, 2, 0)
    assert books.view() == (5, 500, 200_000_010)
    assert in_quarantine(books) == []
    assert ledger_alarms(books.client, books.store).quarantined == 0
    (run,) = runs_between(books.store, OCTOBER.start, OCTOBER.start + HOUR)[1:]
    assert run.header.decisions_position == 1
    (decision,) = decisions_after(books.store, 0)
    assert (decision.decided_by, decision.reason) == ("ada", "tampered copy")

    settle(books.store, {found.event_id: ""}, ADA)
    (verdict,) = reclose(books.client, books.store, [before.hour_ms], clock=books.clock)
    assert verdict.position == 3
    assert verdict.sums.digest == before.sums.digest
    assert books.view()[0] == 4


def test_content_that_nobody_signed_cannot_be_kept(books: Books) -> None:
    host = one_busy_hour()
    books.register(host)
    forged = rewritten(host.records[2], input_uncached_tokens=1)
    books.writer.write([*host.records, forged])
    found = event_contents(books.client, books.store, forged.event.id)

    with pytest.raises(ContractError, match="no registered source signed"):
        found.content(forged.content_hash.hex())
    with pytest.raises(ContractError, match="0 contents 'ffff'"):
        found.content("ffff")


def test_forged_keep_in_the_log_still_bills_nothing(books: Books) -> None:
    """Whoever writes a decision past the command cannot make a forgery billable."""
    host = one_busy_hour()
    books.register(host)
    forged = rewritten(host.records[2], input_uncached_tokens=1)
    books.writer.write([*host.records, forged])
    settle(books.store, {forged.event.id: forged.content_hash.hex()}, ADA)

    assert states(books.close(hours=1)) == ["published"]
    assert books.view()[0] == 4


def test_flood_of_altered_copies_is_settled_by_signature_at_once(books: Books) -> None:
    host = one_busy_hour()
    books.register(host)
    requests = [one for one in host.records if one.topic == "usage.v1"]
    books.writer.write([*host.records, *(rewritten(one, total_ns=1) for one in requests)])
    assert first(books.close(hours=1)).quarantined == 5
    assert books.view() == (0, 0, 0)

    settle(books.store, settled_by_signature(in_quarantine(books)), ADA)

    assert first(books.close(hours=1)).sums.digest == digest_of_hashes(
        one.content_hash for one in requests
    )
    assert len(in_quarantine(books, settled=True)) == 5


def test_more_contradictions_than_may_be_set_aside_hold_their_hours(books: Books) -> None:
    host = one_busy_hour()
    books.register(host)
    books.writer.write(host.records)
    books.writer.write(rewritten(one, total_ns=1) for one in host.records[1:6])
    books.settings = StreamSettings(close_max_quarantined_events=4)

    closing = books.close(hours=2)

    assert states(closing) == ["held", "published"]
    assert "too many events are there with different contents" in first(closing).reason
    assert books.view() == (0, 0, 0)


def test_part_of_a_quarantined_request_waits_with_it(books: Books) -> None:
    door, engine = HostScript("door"), HostScript("engine", host="host-2")
    request = door.request(OCTOBER_MS + MINUTE_MS)
    engine.part_of(request)
    for host in (door, engine):
        host.interval(OCTOBER_MS + 2 * MINUTE_MS)
        host.closed(OCTOBER_MS + 2 * MINUTE_MS)
    books.register(door, engine)
    forged = rewritten(request, input_uncached_tokens=1)
    books.writer.write([*door.records, *engine.records, forged])

    assert states(books.close(hours=1)) == ["published"]
    assert books.view() == (0, 0, 0)

    settle(books.store, {request.event.id: request.content_hash.hex()}, ADA)
    books.close(hours=1)
    assert books.view() == (1, 100, 47_000_000)


def test_show_names_the_fields_that_differ(books: Books) -> None:
    host = one_busy_hour()
    true = host.records[2]
    forged = rewritten(true, input_uncached_tokens=1)
    books.writer.write([*host.records, forged])

    assert differences(books.client, true.event.id) == {
        "input_uncached_tokens": {true.content_hash.hex(): 100, forged.content_hash.hex(): 1}
    }


@pytest.mark.parametrize("event_id", ["no id", "5e0b7c1a-0000-8000-8000-000000000001"])
def test_what_is_no_event_id_is_refused(books: Books, event_id: str) -> None:
    with pytest.raises(ContractError, match="an event id is a UUID"):
        event_contents(books.client, books.store, event_id)
