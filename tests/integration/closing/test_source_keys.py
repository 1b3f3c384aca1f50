"""Keys that are rotated and revoked: what counts, what is held, what becomes of closed hours."""

from infra.signing import SourceKey
from infra.store.decisions import Decider
from infra.store.hours import period_problems
from infra.store.sources import revoke_key, rotate_key, source_history, suspect_key
from schemas.periods import HOUR, Period, parse_period
from streams.ledger_alarms import ledger_alarms
from streams.reclose import reclose
from streams.source_trust import proven_through, source_reach, source_state
from tests.support.closing import Books, first, states
from tests.support.events import HOUR_MS, OCTOBER_MS, HostScript, one_busy_hour

OCTOBER = parse_period("2026-10").start
ADA = Decider("ada", "laptop stolen", OCTOBER_MS + 30 * HOUR_MS)
MINUTE_MS = 60_000
OTHER_KEY = SourceKey(b"another key of the same source!!")


def two_ranges(name: str = "a") -> HostScript:
    """Opened 1, requests 2 and 3, interval 4; request 5, interval 6; closed 7, over two hours."""
    host = HostScript(name)
    host.request(OCTOBER_MS + MINUTE_MS)
    host.request(OCTOBER_MS + 2 * MINUTE_MS)
    host.interval(OCTOBER_MS + HOUR_MS)
    host.request(OCTOBER_MS + HOUR_MS + MINUTE_MS)
    host.interval(OCTOBER_MS + 2 * HOUR_MS)
    host.closed(OCTOBER_MS + 2 * HOUR_MS)
    return host


def test_revocation_takes_what_was_signed_behind_it_and_awaits_nothing_more(books: Books) -> None:
    host, alive = HostScript("a"), one_busy_hour("alive")
    host.request(OCTOBER_MS + MINUTE_MS)
    host.interval(OCTOBER_MS + HOUR_MS)
    books.register(host, alive)
    books.writer.write([*host.records, *alive.records])
    assert states(books.close()) == ["held"] * 3
    state = source_state(books.client, books.store, host.source)
    assert proven_through(state) == 2

    revoke_key(books.store, host.source, trusted_through=2, decider=ADA)

    assert states(books.close()) == ["published"] * 3
    assert books.view()[0] == 6


def test_range_behind_the_revocation_is_never_billed(books: Books) -> None:
    host = two_ranges()
    books.register(host)
    books.writer.write(host.records)
    revoke_key(books.store, host.source, trusted_through=3, decider=ADA)

    closing = books.close()

    assert states(closing) == ["published"] * 3
    assert [one.events for one in closing.hours] == [2, 0, 0]
    assert [one.excluded for one in closing.hours] == [0, 1, 0]
    assert ledger_alarms(books.client, books.store).held_unsigned == 1


def test_trust_that_no_range_proves_is_held(books: Books) -> None:
    host = two_ranges()
    books.register(host)
    books.writer.write(host.records[:4])
    revoke_key(books.store, host.source, trusted_through=4, decider=ADA)
    assert "ranges prove it through 3 only" in first(books.close()).reason


def test_compromised_key_reopens_closed_hours_until_somebody_says_how_far_it_counts(
    books: Books,
) -> None:
    host, other = two_ranges(), one_busy_hour("other")
    books.register(host, other)
    books.writer.write([*host.records, *other.records])
    assert states(books.close()) == ["published"] * 3
    hours = source_reach(books.client, host.source).hours()
    assert len(hours) == 3

    position = suspect_key(books.store, host.source, suspected_from=1, decider=ADA)
    verdicts = reclose(books.client, books.store, hours, clock=books.clock)

    assert [one.state for one in verdicts] == ["held"] * 3
    assert f"compromised from sequence 1 on (decision {position})" in verdicts[0].reason
    assert period_problems(books.store, Period(OCTOBER, OCTOBER + HOUR, "h")) != []
    assert ledger_alarms(books.client, books.store).compromised_sources == 1

    revoke_key(books.store, host.source, trusted_through=3, decider=ADA)
    verdicts = reclose(books.client, books.store, hours, clock=books.clock)

    assert [(one.state, one.events) for one in verdicts] == [
        ("published", 7),
        ("published", 0),
        ("published", 0),
    ]
    assert books.view()[0] == 7
    assert ledger_alarms(books.client, books.store).compromised_sources == 0
    revoke_key(books.store, host.source, trusted_through=0, decider=ADA)
    reclose(books.client, books.store, hours, clock=books.clock)
    assert books.view()[0] == 5


def test_suspicion_from_a_sequence_on_leaves_the_hours_before_it(books: Books) -> None:
    host = two_ranges()
    books.register(host)
    books.writer.write(host.records)
    suspect_key(books.store, host.source, suspected_from=5, decider=ADA)

    closing = books.close()

    assert states(closing) == ["published", "held", "held"]
    assert first(closing).events == 2


def test_rotated_key_counts_from_its_sequence_on_and_the_old_one_below(books: Books) -> None:
    host = HostScript("a")
    host.request(OCTOBER_MS + MINUTE_MS)
    host.interval(OCTOBER_MS + HOUR_MS)
    old, host.key = host.key, OTHER_KEY
    host.request(OCTOBER_MS + HOUR_MS + MINUTE_MS)
    host.interval(OCTOBER_MS + 2 * HOUR_MS)
    host.closed(OCTOBER_MS + 2 * HOUR_MS)
    host.key = old
    books.register(host)
    books.writer.write(host.records)
    assert states(books.close()) == ["held"] * 3

    rotate_key(
        books.store,
        host.source,
        public_key=OTHER_KEY.public_key_hex(),
        from_sequence=3,
        decider=ADA,
    )

    closing = books.close()
    assert states(closing) == ["published"] * 3
    assert [one.events for one in closing.hours] == [1, 1, 0]
    terms = source_history(books.store, host.source).keys.trusted()
    assert [(one.first, one.last < 10) for one in terms] == [(1, True), (3, False)]


def test_old_key_counts_for_nothing_behind_the_rotation(books: Books) -> None:
    host = two_ranges()
    books.register(host)
    books.writer.write(host.records)
    rotate_key(
        books.store,
        host.source,
        public_key=OTHER_KEY.public_key_hex(),
        from_sequence=4,
        decider=ADA,
    )

    closing = books.close()

    assert states(closing) == ["held"] * 3
    assert "still open" in closing.hours[1].reason
    assert books.view() == (0, 0, 0)
