"""Dead letters and hours: redriven, discarded, or still open, the hour closes with what is true."""

import pytest

from infra.store.decisions import Decider
from schemas.errors import ContractError
from schemas.ids import digest_of_hashes
from streams.dead_letter_book import (
    Wanted,
    discard,
    in_ledger,
    letter_at,
    letters,
    open_by_reason,
)
from streams.ledger_alarms import ledger_alarms
from tests.support.closing import Books, first, states
from tests.support.events import OCTOBER_MS, HostScript, one_busy_hour

ADA = Decider("ada", "a test against production", 7)
MINUTE_MS = 60_000


def with_one_refused(books: Books) -> HostScript:
    """A busy hour whose request at sequence 3 lies at `usage.v1/0/4` and was refused."""
    host = one_busy_hour()
    books.register(host)
    books.writer.write(one for one in host.records if one.event.sequence != 3)
    books.writer.write_dead_letter(host.records[2])
    return host


def test_dead_letter_that_came_back_is_billed_once(books: Books) -> None:
    host = with_one_refused(books)
    assert first(books.close(hours=1)).events == 4

    books.writer.write([host.records[2], host.records[2]])

    closing = books.close(hours=1)
    assert states(closing) == ["published"]
    assert books.view() == (5, 500, 200_000_010)
    assert first(closing).sums.digest == digest_of_hashes(
        one.content_hash for one in host.records if one.topic == "usage.v1"
    )
    letter = letter_at(books.client, books.store, "usage.v1/0/4")
    assert in_ledger(books.client, [letter]) == {letter.content_sha256}


def test_discarded_dead_letter_is_not_billed_though_a_copy_comes_later(books: Books) -> None:
    host = with_one_refused(books)
    before = first(books.close(hours=1))
    letter = letter_at(books.client, books.store, "usage.v1/0/4")

    (decision,) = discard(books.store, [letter], ADA)
    books.writer.write([host.records[2]])

    closing = books.close(hours=1)
    assert states(closing) == ["published"]
    assert (first(closing).events, first(closing).dropped) == (4, 1)
    assert first(closing).sums.digest == before.sums.digest
    assert closing.decisions_position == decision.position == 1
    (again,) = discard(books.store, [letter], Decider("bob", "again", 9))
    assert (again.position, again.decided_by) == (1, "ada")


def test_part_of_a_refused_request_holds_its_hour_until_somebody_decides(books: Books) -> None:
    door, engine = HostScript("door"), HostScript("engine", host="host-2")
    request = door.request(OCTOBER_MS + MINUTE_MS)
    engine.part_of(request)
    for host in (door, engine):
        host.interval(OCTOBER_MS + 2 * MINUTE_MS)
        host.closed(OCTOBER_MS + 2 * MINUTE_MS)
    books.register(door, engine)
    books.writer.write([one for one in door.records if one is not request] + engine.records)
    books.writer.write_dead_letter(request)
    closing = books.close(hours=1)
    assert states(closing) == ["held"]
    assert f"parts of request {request.event.id} are there" in first(closing).reason

    discard(books.store, letters(books.client, books.store, Wanted()).letters, ADA)

    assert states(books.close(hours=1)) == ["published"]
    assert books.view() == (0, 0, 0)


def test_letters_are_found_by_state_reason_topic_and_source(books: Books) -> None:
    host = with_one_refused(books)
    books.writer.write_dead_letter(HostScript("other").request(OCTOBER_MS))
    mine = letter_at(books.client, books.store, "usage.v1/0/4")
    assert ledger_alarms(books.client, books.store).dead_letters_by_reason == {"malformed": 2}
    discard(books.store, [mine], ADA)

    def places(wanted: Wanted) -> list[str]:
        found = letters(books.client, books.store, wanted).letters
        return [one.place for one in found]

    assert places(Wanted()) == ["usage.v1/0/4", "usage.v1/0/5"]
    assert places(Wanted(states={"open"})) == ["usage.v1/0/5"]
    assert places(Wanted(states={"discarded"})) == ["usage.v1/0/4"]
    assert places(Wanted(source=host.source)) == ["usage.v1/0/4"]
    assert places(Wanted(refused_as="event.invalid")) == []
    assert places(Wanted(topic="capacity.v1")) == []
    assert letters(books.client, books.store, Wanted(limit=1)).more == 1
    assert open_by_reason(books.client, books.store) == {"malformed": 1}


@pytest.mark.parametrize("place", ["usage.v1/0/99", "usage.v1/0", "nowhere/0/1", "usage.v1/a/1"])
def test_place_without_a_dead_letter_is_refused(books: Books, place: str) -> None:
    with pytest.raises(ContractError, match="dead letter"):
        letter_at(books.client, books.store, place)
