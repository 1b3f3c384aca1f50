"""Law 4 and law 10: order, batching and copies change nothing; nobody can add, drop or alter."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import digest_of_hashes
from tests.support.events import OCTOBER_MS, HostScript, Record, rewritten
from tests.support.proving import prove

MINUTE_MS = 60_000


@st.composite
def hosts(draw: st.DrawFn) -> HostScript:
    """A host with one to four signed ranges of up to four requests each."""
    host = HostScript(f"h{draw(st.integers(0, 3))}")
    minute = 0
    for requests in draw(st.lists(st.integers(0, 4), min_size=1, max_size=4)):
        for _ in range(requests):
            minute += 1
            host.request(OCTOBER_MS + minute * MINUTE_MS, gpu_ns=draw(st.integers(0, 10**9)))
        minute += 1
        host.interval(OCTOBER_MS + minute * MINUTE_MS)
    host.closed(OCTOBER_MS + minute * MINUTE_MS)
    return host


def key_of(host: HostScript) -> str:
    return host.key.public_key_hex()


@given(hosts(), st.randoms(use_true_random=False), st.integers(1, 9), st.integers(0, 5))
def test_any_order_any_batching_and_any_copies_prove_the_same(
    host: HostScript, random: object, block_size: int, copies: int
) -> None:
    expected = prove(host.records, key_of(host), block_size=1_000)
    arrived = [*host.records, *host.records[:copies]]
    random.shuffle(arrived)  # type: ignore[attr-defined]
    assert prove(arrived, key_of(host), block_size=block_size) == expected
    assert expected.spans == [(1, len(host.records) - 1)]
    assert expected.problems == []


@given(hosts(), st.data())
def test_removed_record_is_detected_and_named(host: HostScript, data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(host.records[:-1]))
    found = prove([one for one in host.records if one is not gone], key_of(host))
    sequence = gone.event.sequence
    assert any(first <= sequence <= last for first, last in found.holes)
    assert not any(first <= sequence <= last for first, last in found.spans)


@given(hosts(), st.data())
def test_altered_record_is_detected_and_not_proven(host: HostScript, data: st.DataObject) -> None:
    requests = [one for one in host.records if one.topic == "usage.v1"]
    if not requests:
        return
    victim = data.draw(st.sampled_from(requests))
    altered = rewritten(victim, total_ns=victim.event.data.total_ns + 1)  # type: ignore[attr-defined]
    replaced = [altered if one is victim else one for one in host.records]
    found = prove(replaced, key_of(host))
    sequence = victim.event.sequence
    assert found.problems
    assert not any(first <= sequence <= last for first, last in found.spans)

    beside = prove([*host.records, altered], key_of(host))
    assert beside.rejected == {altered.content_hash}
    assert beside.problems == []


@given(hosts(), hosts())
def test_ranges_signed_by_another_key_prove_nothing(host: HostScript, other: HostScript) -> None:
    if host.source == other.source:
        return
    found = prove(host.records, key_of(other))
    assert (found.spans, found.usage_by_hour) == ([], {})


@given(hosts(), st.integers(1, 40), st.integers(0, 2**32))
def test_foreign_record_is_never_among_the_proven(
    host: HostScript, sequence: int, salt: int
) -> None:
    foreign = HostScript(f"foreign {salt}").request(OCTOBER_MS + MINUTE_MS)
    event = foreign.event.model_copy(update={"source": host.source, "sequence": sequence})
    record = Record(foreign.topic, foreign.key, foreign.value, event)
    expected = prove(host.records, key_of(host))

    found = prove([*host.records, record], key_of(host))

    assert found.problems == []
    assert found.spans == expected.spans
    assert found.usage_by_hour == expected.usage_by_hour
    inside = sequence < len(host.records)
    assert (record.content_hash in found.rejected) is inside


@given(st.lists(st.binary(min_size=16, max_size=16), unique=True), st.randoms())
def test_digest_is_free_of_order_and_sensitive_to_every_event(
    hashes: list[bytes], random: object
) -> None:
    shuffled = list(hashes)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert digest_of_hashes(shuffled) == digest_of_hashes(hashes)
    if hashes:
        assert digest_of_hashes(hashes[1:]) != digest_of_hashes(hashes)
