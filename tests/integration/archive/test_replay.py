"""Published hours are replayed from an archive: identical, or the first difference by name."""

from pathlib import Path

import pytest

from infra.clickhouse.client import connect
from infra.objects.folder import FolderObjects
from infra.store.decisions import append_decision
from schemas.errors import IngestError
from schemas.periods import HOUR, Period, parse_hour, parse_period
from streams.archive import Archive
from streams.completeness_decisions import SETTLE_CONFLICT
from streams.rebuild import Sources, rebuild
from streams.replay import Replay, Replayed, ReplayTarget
from streams.replay_reading import ArchiveSource
from streams.settings import StreamSettings
from tests.support.archives import append_records, archive_of, raw_records
from tests.support.closing import Books, states
from tests.support.events import HOUR_MS, OCTOBER_MS, HostScript, Record, one_busy_hour, rewritten

OCTOBER = parse_period("2026-10")
FIRST_HOURS = Period(OCTOBER.start, OCTOBER.start + 3 * HOUR, "three hours")


@pytest.fixture
def hosts(books: Books) -> list[HostScript]:
    """Two hosts whose hours are closed; one has parts of requests, and a loss it declared."""
    first, second = HostScript("first"), one_busy_hour("second", opened_ms=OCTOBER_MS + HOUR_MS)
    requests = [first.request(OCTOBER_MS + 60_000 * n, f"tenant-{n % 3}") for n in range(1, 30)]
    first.part_of(requests[3])
    first.lost(OCTOBER_MS + 40 * 60_000)
    first.interval(OCTOBER_MS + HOUR_MS)
    first.closed(OCTOBER_MS + HOUR_MS)
    books.register(first, second)
    books.writer.write([*first.records, *second.records])
    assert states(books.close()) == ["published"] * 3
    return [first, second]


def everything(hosts: list[HostScript]) -> list[Record]:
    return [record for host in hosts for record in host.records]


def target_of(books: Books, url: str) -> ReplayTarget:
    database = str(books.client.database)
    return ReplayTarget(url, f"{database}_scratch", database)


def replayed(books: Books, url: str, archive: Archive, period: Period = FIRST_HOURS) -> Replayed:
    replay = Replay(target_of(books, url), books.store, StreamSettings(replay_rows=7))
    replay.prepare()
    try:
        return replay.hours(ArchiveSource(archive, 7), period)
    finally:
        replay.drop()


def test_every_published_hour_is_identical(
    books: Books, hosts: list[HostScript], clickhouse_url: str, tmp_path: Path
) -> None:
    found = replayed(books, clickhouse_url, archive_of(tmp_path / "a", everything(hosts)))
    assert found.identical
    assert [hour.events for hour in found.hours] == [29, 5]
    assert not found.older_too


def test_one_hour_alone_is_identical_and_leaves_no_database(
    books: Books, hosts: list[HostScript], clickhouse_url: str, tmp_path: Path
) -> None:
    archive = archive_of(tmp_path / "a", everything(hosts))
    found = replayed(books, clickhouse_url, archive, parse_hour("2026-10-01T01"))
    assert found.identical
    assert [hour.events for hour in found.hours] == [5]
    names = [row[0] for row in books.client.query("SHOW DATABASES").result_rows]
    assert target_of(books, clickhouse_url).scratch not in names


def test_each_run_is_replayed_below_its_own_offsets(
    books: Books, hosts: list[HostScript], clickhouse_url: str, tmp_path: Path
) -> None:
    """The first hour is closed again with more events; the second stays under its old vector."""
    late = one_busy_hour("late", requests=2)
    books.register(late)
    books.writer.write(late.records)
    assert [hour.position for hour in books.close().hours] == [2, 1, 0]
    archive = archive_of(tmp_path / "a", everything([*hosts, late]))
    found = replayed(books, clickhouse_url, archive)
    assert found.identical
    assert [hour.events for hour in found.hours] == [31, 5]


def test_settled_conflict_is_replayed_as_it_was_decided(
    books: Books, hosts: list[HostScript], clickhouse_url: str, tmp_path: Path
) -> None:
    host = one_busy_hour("settled", requests=3)
    forged = rewritten(host.records[1], input_uncached_tokens=999)
    books.register(host)
    books.writer.write([*host.records, forged])
    append_decision(
        books.store,
        kind=SETTLE_CONFLICT,
        subject=f'{{"event_id": "{forged.event.id}", "keep": ""}}',
        reason="neither",
        decided_by="ada",
        now_ms=1,
    )
    books.close()
    archive = archive_of(tmp_path / "a", [*everything(hosts), *host.records, forged])
    append_decision(
        books.store,
        kind=SETTLE_CONFLICT,
        subject=f'{{"event_id": "{forged.event.id}", "keep": "{"ab" * 16}"}}',
        reason="later",
        decided_by="ada",
        now_ms=2,
    )
    assert replayed(books, clickhouse_url, archive).identical


def test_altered_event_is_named_with_its_field_and_both_values(
    books: Books, hosts: list[HostScript], clickhouse_url: str, tmp_path: Path
) -> None:
    archive = archive_of(tmp_path / "a", everything(hosts))
    event = hosts[0].records[5].event
    books.client.command(
        "ALTER TABLE usage_events UPDATE output_text_tokens = output_text_tokens + 7"
        f" WHERE event_id = '{event.id}'",
        settings={"mutations_sync": 2},
    )
    found = replayed(books, clickhouse_url, archive)
    (hour,) = [one for one in found.hours if not one.identical]
    assert hour.difference is not None
    assert (hour.difference.table, hour.difference.subject) == ("usage_events", event.id)
    assert (hour.difference.field, hour.difference.published, hour.difference.replayed) == (
        "output_text_tokens",
        "27",
        "20",
    )


def test_event_that_vanished_from_the_ledger_is_named(
    books: Books, hosts: list[HostScript], clickhouse_url: str, tmp_path: Path
) -> None:
    archive = archive_of(tmp_path / "a", everything(hosts))
    event = hosts[1].records[2].event
    books.client.command(f"DELETE FROM usage_events WHERE event_id = '{event.id}'")
    difference = replayed(books, clickhouse_url, archive).hours[1].difference
    assert difference is not None
    assert (difference.subject, difference.field) == (event.id, "row")
    assert (difference.published, difference.replayed) == ("(not there)", "there")


def test_altered_rollup_row_is_named_by_its_key_and_measure(
    books: Books, hosts: list[HostScript], clickhouse_url: str, tmp_path: Path
) -> None:
    archive = archive_of(tmp_path / "a", everything(hosts))
    books.client.command(
        "ALTER TABLE usage_hourly_runs UPDATE gpu_ns = gpu_ns + 1 WHERE tenant = 'tenant-2'",
        settings={"mutations_sync": 2},
    )
    difference = replayed(books, clickhouse_url, archive).hours[0].difference
    assert difference is not None
    assert (difference.table, difference.field) == ("usage_hourly_runs", "gpu_ns")
    assert difference.subject.startswith("tenant-2/search/")
    assert int(difference.published) == int(difference.replayed) + 1


def test_archive_that_ends_too_early_is_refused_with_the_offset(
    books: Books, hosts: list[HostScript], clickhouse_url: str, tmp_path: Path
) -> None:
    archive = archive_of(tmp_path / "a", everything(hosts)[:-4])
    with pytest.raises(IngestError, match=r"ends at offset \d+, needed is \d+"):
        replayed(books, clickhouse_url, archive)


def test_damaged_file_is_not_replayed(
    books: Books, hosts: list[HostScript], clickhouse_url: str, tmp_path: Path
) -> None:
    archive = archive_of(tmp_path / "a", everything(hosts))
    (file, *_) = sorted((tmp_path / "a/usage.v1/00000").glob("*.parquet"))
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(IngestError, match=f"{file.name}: its bytes are not those"):
        replayed(books, clickhouse_url, archive)


def test_hours_without_a_run_have_nothing_to_compare(
    books: Books, hosts: list[HostScript], clickhouse_url: str, tmp_path: Path
) -> None:
    archive = archive_of(tmp_path / "a", everything(hosts))
    with pytest.raises(IngestError, match="no hour of 2026-09 has a published run"):
        replayed(books, clickhouse_url, archive, parse_period("2026-09"))


def test_old_records_are_left_out_and_read_only_if_they_matter(
    books: Books, hosts: list[HostScript], clickhouse_url: str, tmp_path: Path
) -> None:
    """A closed host of long ago fills the archive's first files; its time was long before."""
    archive = archive_of(tmp_path / "whole", everything(hosts))
    total = replayed(books, clickhouse_url, archive).loaded.records
    aged = aged_archive(tmp_path / "aged", everything(hosts))
    found = replayed(books, clickhouse_url, aged)
    assert found.identical
    assert found.older_too
    assert found.loaded.records == total


def aged_archive(root: Path, records: list[Record]) -> Archive:
    """The same archive, as if the broker's clock had been years behind when it took the usage."""
    archive = Archive(FolderObjects(root))
    by_topic: dict[str, list[bytes | None]] = {}
    for record in records:
        by_topic.setdefault(record.topic, []).append(record.value)
    for topic, values in by_topic.items():
        raw = raw_records(values)
        if topic == "usage.v1":
            raw.timestamps_ms = [1_000 + n for n in range(len(values))]
        append_records(archive, (topic, 0), raw)
    return archive


def test_dropped_ledger_is_rebuilt_to_the_same_digests(
    books: Books, hosts: list[HostScript], clickhouse_url: str, tmp_path: Path
) -> None:
    late = one_busy_hour("late", requests=2)
    books.register(late)
    books.writer.write(late.records)
    books.close()
    view = "SELECT * FROM usage_hourly ORDER BY ALL"
    columns = "hour, run_id, position, digest, offsets, events, rows"
    runs = f"SELECT {columns} FROM rollup_runs FINAL ORDER BY ALL"
    before = [books.client.query(one).result_rows for one in (view, runs)]
    archive = archive_of(tmp_path / "a", everything([*hosts, late]))
    target = target_of(books, clickhouse_url)
    with connect(clickhouse_url, "default") as server:
        server.command(f"DROP DATABASE {target.published} SYNC")

    found = rebuild(target, books.store, Sources(ArchiveSource(archive, 7), None), StreamSettings())

    assert found.identical
    assert [(hour.position, hour.events) for hour in found.hours] == [(1, 29), (2, 31), (1, 5)]
    assert [books.client.query(one).result_rows for one in (view, runs)] == before
    assert not any(hour.changed for hour in books.close().hours)


def test_ledger_that_cannot_be_rebuilt_identical_stays_as_it_was(
    books: Books, hosts: list[HostScript], clickhouse_url: str, tmp_path: Path
) -> None:
    records = everything(hosts)
    forged = rewritten(records[4], input_uncached_tokens=1)
    archive = archive_of(tmp_path / "a", [*records[:4], forged, *records[5:]])
    before = books.client.query("SELECT sum(gpu_ns), count() FROM usage_events").result_rows
    target = target_of(books, clickhouse_url)
    found = rebuild(target, books.store, Sources(ArchiveSource(archive, 7), None), StreamSettings())
    difference = found.first_difference()
    assert difference is not None
    assert books.client.query("SELECT sum(gpu_ns), count() FROM usage_events").result_rows == before
    with connect(clickhouse_url, "default") as server:
        server.command(f"DROP DATABASE {target.scratch} SYNC")
