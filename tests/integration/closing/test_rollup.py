"""Law 4 on a real ledger: any order, any batching, any copies give one digest and one roll-up."""

import random
from collections import Counter

import pytest

from infra.clickhouse.client import Client
from schemas.ids import digest_of_hashes
from schemas.tables import ROLLUP_KEY, ROLLUP_MEASURES
from streams.completeness_ledger import read_offsets
from streams.rollup_sql import DIGEST
from tests.support.closing import Books
from tests.support.events import HOUR_MS, OCTOBER_MS, HostScript, Record

COLUMNS = ", ".join((*ROLLUP_KEY[2:], *ROLLUP_MEASURES))


def mixed_host() -> HostScript:
    host = HostScript("mixed")
    for index in range(40):
        host.request(
            OCTOBER_MS + index * 1_000,
            tenant=f"t{index % 3}",
            model=("llama-3.1-8b", "llama-3.3-70b")[index % 2],
            service_tier=("standard", "priority")[index % 5 == 0],
            outcome=("stop", "abort")[index % 7 == 0],
            gpu_ns=1_000_000 + index,
            input_uncached_tokens=index,
        )
    host.interval(OCTOBER_MS + HOUR_MS)
    host.closed(OCTOBER_MS + HOUR_MS)
    return host


def folded(host: HostScript) -> set[tuple[object, ...]]:
    """The roll-up as a plain fold over the events."""
    found: dict[tuple[str, ...], Counter[str]] = {}
    for record in host.records:
        if record.topic != "usage.v1":
            continue
        data = record.event.data.model_dump() | {"tenant": record.event.subject, "requests": 1}  # type: ignore[attr-defined]
        key = tuple(data[name] for name in ROLLUP_KEY[2:])
        found.setdefault(key, Counter()).update({name: data[name] for name in ROLLUP_MEASURES})
    return {(*key, *(sums[name] for name in ROLLUP_MEASURES)) for key, sums in found.items()}


@pytest.mark.parametrize("seed", range(4))
def test_any_arrival_gives_the_fold_of_the_events(books: Books, seed: int) -> None:
    host = mixed_host()
    books.register(host)
    dice = random.Random(seed)
    arrived: list[Record] = [*host.records, *dice.sample(host.records, 11)]
    dice.shuffle(arrived)
    while arrived:
        size = dice.randint(1, 25)
        books.writer.write(arrived[:size])
        arrived = arrived[size:]
    if seed % 2:
        books.client.command("OPTIMIZE TABLE usage_events FINAL")

    closing = books.close(hours=1)

    usage = [one.content_hash for one in host.records if one.topic == "usage.v1"]
    assert closing.hours[0].sums.digest == digest_of_hashes(usage)
    rows = books.client.query(f"SELECT {COLUMNS} FROM usage_hourly").result_rows
    assert set(rows) == folded(host)
    assert len(rows) == len(folded(host))


def test_digest_in_the_ledger_is_ours_also_with_zero_bytes_at_the_end(ledger: Client) -> None:
    hashes = [bytes([n, *[255 - n] * 13, 0, 0]) for n in range(256)] + [bytes(16)]
    values = ", ".join(f"unhex('{one.hex()}')" for one in hashes)
    sql = f"SELECT {DIGEST} FROM (SELECT toFixedString(arrayJoin([{values}]), 16) AS content_hash)"
    assert ledger.query(sql).result_rows == [(digest_of_hashes(hashes),)]


def test_copy_behind_the_offset_vector_does_not_take_the_event_out(books: Books) -> None:
    host = mixed_host()
    books.register(host)
    books.writer.write(host.records)
    offsets = read_offsets(books.client)
    books.writer.write(host.records)
    assert read_offsets(books.client) != offsets

    count = books.client.query(
        f"SELECT count() FROM usage_events FINAL PREWHERE {offsets.condition()}"
    ).result_rows

    assert count == [(40,)]


def test_event_behind_the_offset_vector_is_not_read(books: Books) -> None:
    host = mixed_host()
    books.writer.write(host.records[:10])
    offsets = read_offsets(books.client)
    assert offsets.named() == {"control.v1/0": 1, "usage.v1/0": 9}
    books.writer.write(host.records[10:])

    count = books.client.query(
        f"SELECT count() FROM usage_events FINAL PREWHERE {offsets.condition()}"
    ).result_rows

    assert count == [(9,)]


def test_usage_in_many_hours_closes_in_batches(books: Books) -> None:
    """More hours than one batch holds; each is published, none twice."""
    host = HostScript("long")
    for hour in range(150):
        host.request(OCTOBER_MS + hour * HOUR_MS + 1_000, gpu_ns=hour)
        host.interval(OCTOBER_MS + (hour + 1) * HOUR_MS)
    host.closed(OCTOBER_MS + 150 * HOUR_MS)
    books.register(host)
    books.writer.write(host.records)

    closing = books.close(hours=160)

    assert sum(one.changed for one in closing.hours) == 150
    assert books.view() == (150, 15_000, sum(range(150)))
    assert not any(one.changed for one in books.close(hours=160).hours)
