"""What a door writes down, also when the disk says no."""

import resource
from pathlib import Path

import msgspec
import pytest

from inference.door_records import (
    DOOR_BOOT,
    DOOR_CLOSE,
    DOOR_MARK,
    DOOR_OPEN,
    DOOR_STOP,
    DoorClose,
    DoorOpen,
)
from inference.doorkeeper import Doorkeeper
from inference.wire import LostWire
from schemas.clock import FixedClock
from tests.support.doors import NOW_NS, door_key, fixed_door, records, snapshot, written

ROOM_BYTES = 65_536


def door_at(folder: Path, **changes: object) -> Doorkeeper:
    return fixed_door(folder, snapshot([door_key()]), **changes)


def opening(door: Doorkeeper, label: str = "") -> DoorOpen:
    now_ns = door.ledger.now_ns()
    return DoorOpen(
        id=door.ledger.mint(now_ns),
        tenant="acme",
        project="chatbot",
        api_key="key_1",
        client_request_id=label,
        endpoint="v1/completions",
        admitted_unix_ns=now_ns,
        admitted_mono_ns=1,
    )


def closing(opened: DoorOpen) -> DoorClose:
    return DoorClose(
        id=opened.id, http_status=200, ending="finished", closed_unix_ns=2, closed_mono_ns=2
    )


def fill(door: Doorkeeper) -> None:
    while door.ledger.opened(opening(door, "x" * 256)):
        pass


def make_room(folder: Path) -> None:
    """As the outbox does, once it has read a segment."""
    oldest = sorted(folder.rglob("*.spool"))[:-1]
    assert oldest
    for path in oldest:
        path.unlink()


def kinds(folder: Path) -> list[str]:
    return [record.kind for record in records(folder)]


def test_records_follow_each_other_from_boot_to_stop(tmp_path: Path) -> None:
    door = door_at(tmp_path)
    opened = opening(door)
    assert door.ledger.opened(opened)
    door.ledger.mark()
    door.ledger.closed(closing(opened))
    door.ledger.stop()
    assert kinds(tmp_path) == [DOOR_BOOT, DOOR_OPEN, DOOR_MARK, DOOR_CLOSE, DOOR_STOP]


def test_every_boot_has_a_spool_of_its_own(tmp_path: Path) -> None:
    first, second = door_at(tmp_path), door_at(tmp_path)
    assert first.ledger.door != second.ledger.door
    assert kinds(tmp_path) == [DOOR_BOOT, DOOR_BOOT]


def test_clock_that_steps_back_does_not_reorder_ids(tmp_path: Path) -> None:
    door = door_at(tmp_path)
    clock = FixedClock(NOW_NS)
    door.ledger._clock = clock
    clock.advance(5_000_000)
    later = opening(door)
    door.ledger._clock = FixedClock(NOW_NS)
    assert opening(door).id[:13] == later.id[:13]


def test_full_spool_admits_nobody_and_loses_no_closing(tmp_path: Path) -> None:
    door = door_at(tmp_path, spool_max_bytes=ROOM_BYTES, spool_segment_bytes=4_096)
    served = opening(door)
    assert door.ledger.opened(served)
    fill(door)
    failures = door.ledger.counts["metering_failures"]
    assert failures == 1
    for _ in range(40):
        door.ledger.closed(closing(served))
    assert not door.ledger.opened(opening(door))
    make_room(tmp_path)
    assert door.ledger.opened(opening(door))
    found = written(tmp_path)
    assert [one.id for one in found.closed] == [served.id] * 40
    assert "records_dropped" not in door.ledger.counts


def test_backlog_that_is_more_than_the_spool_holds_is_written_in_portions(tmp_path: Path) -> None:
    door = door_at(tmp_path, spool_max_bytes=ROOM_BYTES, spool_segment_bytes=4_096)
    served = opening(door)
    fill(door)
    for _ in range(500):
        door.ledger.closed(closing(served))
    found = 0
    for _ in range(5):
        found += len(written(tmp_path).closed)
        make_room(tmp_path)
        door.ledger.mark()
    assert found + len(written(tmp_path).closed) >= 500
    assert "records_dropped" not in door.ledger.counts
    assert kinds(tmp_path)[-1] == DOOR_MARK


def test_backlog_is_bounded_and_what_it_drops_is_counted(tmp_path: Path) -> None:
    door = door_at(
        tmp_path, spool_max_bytes=ROOM_BYTES, spool_segment_bytes=4_096, door_backlog_records=10
    )
    served = opening(door)
    fill(door)
    for _ in range(40):
        door.ledger.closed(closing(served))
    # Some small ones still found room beside the bound.
    assert door.ledger.counts["records_dropped"] + 10 <= 40
    assert door.ledger.counts["records_dropped"] > 0


def test_mark_is_not_written_while_something_is_missing_above_it(tmp_path: Path) -> None:
    door = door_at(tmp_path, spool_max_bytes=ROOM_BYTES, spool_segment_bytes=4_096)
    served = opening(door)
    fill(door)
    for _ in range(40):
        door.ledger.closed(closing(served))
    door.ledger.mark()
    door.ledger.stop()
    assert not {DOOR_MARK, DOOR_STOP} & set(kinds(tmp_path))


def test_refused_request_is_written_whole(tmp_path: Path) -> None:
    door = door_at(tmp_path)
    opened = opening(door)
    door.ledger.refused(opened, closing(opened))
    assert written(tmp_path).only()[0] == opened


def test_nothing_is_written_or_admitted_behind_the_stop(tmp_path: Path) -> None:
    door = door_at(tmp_path)
    served = opening(door)
    door.ledger.stop()
    door.ledger.stop()
    assert not door.ledger.opened(opening(door))
    door.ledger.closed(closing(served))
    assert door.ledger.counts["records_dropped"] == 1
    assert kinds(tmp_path) == [DOOR_BOOT, DOOR_STOP]


@pytest.mark.parametrize("policy", ["refuse", "count"])
def test_disk_that_fails_refuses_or_keeps_by_policy(tmp_path: Path, policy: str) -> None:
    door = door_at(tmp_path, spool_when_full=policy)
    (spool,) = tmp_path.rglob("*.spool")
    opened = opening(door)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (spool.stat().st_size, before[1]))
    try:
        admitted = door.ledger.opened(opened)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    door.ledger.closed(closing(opened))
    assert admitted == (policy == "count")
    assert len(written(tmp_path).opened) == (1 if policy == "count" else 0)
    assert len(written(tmp_path).closed) == 1
    assert door.ledger.counts["metering_failures"] == 1


def test_spool_that_counts_says_how_many_requests_it_lost(tmp_path: Path) -> None:
    door = door_at(
        tmp_path,
        spool_when_full="count",
        spool_max_bytes=ROOM_BYTES,
        spool_segment_bytes=4_096,
    )
    opened = [opening(door, "x" * 256) for _ in range(200)]
    for one in opened:
        assert door.ledger.opened(one)
    lost = door.ledger.counts["records_dropped"]
    make_room(tmp_path)
    door.ledger.mark()
    (loss,) = [record for record in records(tmp_path) if record.kind == "usage.lost"]
    assert msgspec.json.decode(loss.data, type=LostWire).requests == lost > 0
