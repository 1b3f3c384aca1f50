"""Law 10 on a real ledger: an event that no registered source signed is never billed."""

import random
from collections.abc import Callable, Iterable

import pytest

from infra.store.decisions import Decider
from infra.store.sources import revoke_key
from schemas.ids import derived_entropy, derived_uuid, format_ms, uuid7, uuid7_unix_ms
from tests.support.closing import Books, first, states
from tests.support.events import HOUR_MS, OCTOBER_MS, HostScript, Record, one_busy_hour, to_bytes

MINUTE_MS = 60_000
HONEST = (5, 500, 200_000_010)


def under(source: str, records: Iterable[Record], salt: str, *, behind: int = 0) -> list[Record]:
    """Records under another source's name, at ids of their own."""
    taken = []
    for record in records:
        event = record.event
        subject = source if event.subject == event.source else event.subject
        at_ms = uuid7_unix_ms(event.id)
        changed = event.model_copy(
            update={
                "source": source,
                "subject": subject,
                "sequence": event.sequence + behind,
                "id": uuid7(at_ms, derived_entropy(salt, event.id)),
                "time": format_ms(at_ms),
            }
        )
        taken.append(Record(record.topic, record.key, to_bytes(changed), changed))
    return taken


def unsigned(host: HostScript) -> list[Record]:
    """Requests behind everything that the source signed, in no range at all."""
    evil = HostScript("evil")
    return under(
        host.source, [evil.request(OCTOBER_MS + n * MINUTE_MS) for n in range(4)], "u", behind=50
    )


def wrong_key(host: HostScript) -> list[Record]:
    """A whole other history of the source, consistent in itself, signed by another key."""
    return under(host.source, one_busy_hour("evil", requests=3).records, "w")


def wrong_key_behind(host: HostScript) -> list[Record]:
    """The same, going on where the source ended."""
    return under(host.source, one_busy_hour("evil").records, "b", behind=len(host.records))


def other_content_in_a_range(host: HostScript) -> list[Record]:
    """Requests at sequences that a signed range covers, beside the true records."""
    evil = HostScript("evil")
    return under(host.source, [evil.request(OCTOBER_MS + MINUTE_MS) for _ in range(3)], "o")


def unknown_source(_: HostScript) -> list[Record]:
    """A host that nobody registered, in perfect order."""
    return one_busy_hour("stranger").records


def borrowed_range(host: HostScript) -> list[Record]:
    """The true records and ranges of the host, under the name of an unregistered source."""
    return under(derived_uuid("borrower"), host.records, "r")


def part_of_a_true_request(host: HostScript) -> list[Record]:
    """GPU time that an engine of nobody's adds to a request that is billed."""
    evil = HostScript("evil")
    part = evil.part_of(host.records[1], gpu_ns=10**12)
    return [part, *under(host.source, [part], "p", behind=70)]


FORGERIES: list[Callable[[HostScript], list[Record]]] = [
    unsigned,
    wrong_key,
    wrong_key_behind,
    other_content_in_a_range,
    unknown_source,
    borrowed_range,
    part_of_a_true_request,
]


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
def test_forged_records_are_not_billed_and_stop_nothing(
    books: Books, forge: Callable[[HostScript], list[Record]]
) -> None:
    host = one_busy_hour()
    books.register(host)
    books.writer.write([*host.records, *forge(host)])

    closing = books.close()

    assert states(closing) == ["published"] * 3
    assert books.view() == HONEST
    assert first(closing).quarantined == 0


def test_all_forgeries_together_in_any_order_change_nothing(books: Books) -> None:
    host = one_busy_hour()
    books.register(host)
    together = [*host.records]
    for forge in FORGERIES:
        together += [] if forge is wrong_key else forge(host)
    random.Random(10).shuffle(together)
    books.writer.write(together)

    assert states(books.close()) == ["published"] * 3
    assert books.view() == HONEST


def test_what_a_revoked_key_signs_is_not_billed(books: Books) -> None:
    thief, honest = one_busy_hour("thief"), one_busy_hour()
    books.register(honest, thief)
    who = Decider("ada", "stolen", OCTOBER_MS + HOUR_MS)
    revoke_key(books.store, thief.source, trusted_through=0, decider=who)
    books.writer.write([*honest.records, *thief.records])

    closing = books.close()

    assert states(closing) == ["published"] * 3
    assert books.view() == HONEST
    assert first(closing).excluded == 5


def test_forged_dead_letter_neither_fills_a_hole_nor_hides_an_event(books: Books) -> None:
    host = one_busy_hour()
    books.register(host)
    for letter in under(host.source, host.records[1:4], "d"):
        books.writer.write_dead_letter(letter)
    books.writer.write(one for one in host.records if one.event.sequence != 2)
    assert states(books.close(hours=1)) == ["held"]
    assert books.view() == (0, 0, 0)

    books.writer.write(host.records)
    assert states(books.close(hours=1)) == ["published"]
    assert books.view() == HONEST
