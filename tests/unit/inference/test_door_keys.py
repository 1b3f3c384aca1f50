"""The snapshot of keys: replaced whole, read again when it changes, denied when stale."""

import time
from pathlib import Path

import pytest

from inference.door_keys import KeyRing, KeySnapshot, write_snapshot
from tests.support.doors import NOW_MS, door_key, door_settings, door_tenant, snapshot

ONE = snapshot([door_key(1)])
TWO = snapshot([door_key(1), door_key(2)])


def ring_of(folder: Path, content: KeySnapshot | None = ONE) -> KeyRing:
    settings = door_settings(folder, door_keys_check_ms=10, door_keys_max_age_s=60)
    if content is not None:
        write_snapshot(settings.door_keys_file, content)
    return KeyRing(settings)


def known(ring: KeyRing, now_ms: int = NOW_MS) -> int | None:
    index = ring.current(now_ms)
    return None if index is None else len(index.keys)


def wait() -> None:
    time.sleep(0.012)


def test_snapshot_is_for_its_owner_only_and_leaves_no_second_file(tmp_path: Path) -> None:
    ring_of(tmp_path)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_missing_snapshot_admits_nobody(tmp_path: Path) -> None:
    assert known(ring_of(tmp_path, None)) is None


def test_new_snapshot_is_seen(tmp_path: Path) -> None:
    ring = ring_of(tmp_path)
    assert known(ring) == 1
    write_snapshot(tmp_path / "keys.json", TWO)
    wait()
    assert known(ring) == 2


def test_snapshot_that_was_taken_away_closes_the_door(tmp_path: Path) -> None:
    ring = ring_of(tmp_path)
    assert known(ring) == 1
    (tmp_path / "keys.json").unlink()
    wait()
    assert known(ring) is None
    write_snapshot(tmp_path / "keys.json", ONE)
    wait()
    assert known(ring) == 1


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b'{"version":2,"written_at_ms":1,"keys":[],"tenants":[]}', b"\xff"],
)
def test_damaged_snapshot_is_counted_and_the_last_good_one_stays(
    tmp_path: Path, damage: bytes
) -> None:
    ring = ring_of(tmp_path)
    assert known(ring) == 1
    (tmp_path / "keys.json").write_bytes(damage)
    wait()
    assert known(ring) == 1
    assert ring.failures == 1
    assert known(ring, NOW_MS + 60_001) is None


def test_tenant_key_that_is_no_key_is_damage(tmp_path: Path) -> None:
    tenant = door_tenant()
    broken = snapshot([door_key(1)], [type(tenant)(tenant="acme", tenant_key="no hex")])
    ring = ring_of(tmp_path, broken)
    assert known(ring) is None
    assert ring.failures == 1


@pytest.mark.parametrize(
    ("age_ms", "admits"),
    [(0, True), (60_000, True), (60_001, False), (-300_000, True), (-300_001, False)],
)
def test_age_of_a_snapshot_is_bounded_in_both_directions(
    tmp_path: Path, age_ms: int, admits: bool
) -> None:
    assert (known(ring_of(tmp_path), NOW_MS + age_ms) is not None) == admits


def test_file_is_not_looked_at_for_every_request(tmp_path: Path) -> None:
    settings = door_settings(tmp_path, door_keys_check_ms=10_000)
    write_snapshot(settings.door_keys_file, ONE)
    ring = KeyRing(settings)
    assert known(ring) == 1
    write_snapshot(settings.door_keys_file, TWO)
    assert known(ring) == 1


def test_write_that_fails_leaves_the_old_snapshot(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    ring = ring_of(folder)
    target = folder / "file-in-the-way"
    target.mkdir()
    (target / "x").touch()
    with pytest.raises(OSError, match="file-in-the-way"):
        write_snapshot(target, ONE)
    assert sorted(path.name for path in folder.iterdir()) == ["file-in-the-way", "keys.json"]
    assert known(ring) == 1


def test_pseudonyms_differ_by_tenant_purpose_and_text() -> None:
    acme, globex = door_tenant("acme"), door_tenant("globex")
    found = {
        acme.pseudonym("cache-salt", ""),
        acme.pseudonym("cache-salt", "x"),
        acme.pseudonym("end-user", "x"),
        globex.pseudonym("end-user", "x"),
    }
    assert len(found) == 4
    assert all(len(one) == 32 for one in found)


def test_snapshot_that_says_the_same_again_is_fresh_without_being_decoded(tmp_path: Path) -> None:
    ring = ring_of(tmp_path)
    before = ring.current(NOW_MS)
    later_ms = NOW_MS + 100_000
    write_snapshot(tmp_path / "keys.json", snapshot([door_key(1)], at_ms=later_ms))
    wait()
    after = ring.current(later_ms)
    assert after is before is not None
    assert known(ring, later_ms + 60_000) == 1
    assert known(ring, later_ms + 60_001) is None


def test_key_whose_label_imitates_a_snapshot_changes_nothing(tmp_path: Path) -> None:
    tenant = door_tenant(suspended=True, suspend_reason=',"keys":[]')
    ring = ring_of(tmp_path, snapshot([door_key(1)], [tenant]))
    assert known(ring) == 1
    write_snapshot(tmp_path / "keys.json", snapshot([door_key(1), door_key(2)], [tenant]))
    wait()
    assert known(ring) == 2
