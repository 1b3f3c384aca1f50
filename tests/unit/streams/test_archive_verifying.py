"""Whatever is done to an archive, verifying it names the object and the reason."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.objects.folder import FolderObjects
from streams.archive import Archive, gap
from streams.archive_manifest import entry_name, entry_sha256, read_entry
from streams.archive_records import RawRecords, table_of_records
from streams.archive_verifying import Recorded, RecordedEntry, Verification, verify
from tests.support.archives import append_records, raw_records

PLACE = ("usage.v1", 2)
OTHER = ("capacity.v1", 0)
FILES = 4
PER_FILE = 10


@pytest.fixture
def root(tmp_path: Path) -> Path:
    archive = Archive(FolderObjects(tmp_path / "archive"))
    for place in (PLACE, OTHER):
        for number in range(FILES):
            values = [b'{"value":%d}' % (number * PER_FILE + n) for n in range(PER_FILE)]
            append_records(archive, place, raw_records(values, number * PER_FILE))
    return tmp_path / "archive"


def archive_at(root: Path) -> Archive:
    return Archive(FolderObjects(root))


def recorded(root: Path) -> Recorded:
    """What the billing store knew before somebody touched the archive."""
    archive = archive_at(root)
    known = {}
    for place in archive.places():
        entries = {number: archive.entry(place, number) or b"" for number in archive.numbers(place)}
        known[place] = {
            number: RecordedEntry(entry_sha256(content), read_entry(content).end, 1_791_000_000_000)
            for number, content in entries.items()
        }
    return known


def file_of(root: Path, number: int) -> Path:
    content = archive_at(root).entry(PLACE, number)
    assert content is not None
    return root / read_entry(content).file


def entry_path(root: Path, number: int) -> Path:
    return root / entry_name(PLACE, number)


def the_fault(found: Verification) -> str:
    (fault,) = found.faults
    assert fault.place == PLACE
    return str(fault)


def test_untouched_archive_is_sound(root: Path) -> None:
    found = verify(archive_at(root), recorded(root))
    assert found.faults == []
    assert (found.entries, found.records) == (2 * FILES, 2 * FILES * PER_FILE)
    assert {place: head.end for place, head in found.heads.items()} == {PLACE: 40, OTHER: 40}


def test_flipped_bit_of_a_file_is_found(root: Path) -> None:
    path = file_of(root, 2)
    content = path.read_bytes()
    for nth, place in enumerate(range(0, len(content), max(1, len(content) // 20))):
        changed = bytearray(content)
        changed[place] ^= 1 << nth % 8
        path.write_bytes(changed)
        assert f"{path.name} (entry 2, usage.v1/2 [10, 20)): the file's bytes were changed" in (
            the_fault(verify(archive_at(root), None))
        )


def test_flipped_bit_of_an_entry_is_found_with_the_store(root: Path) -> None:
    known, path = recorded(root), entry_path(root, FILES)
    content = path.read_bytes()
    for place in range(0, len(content), 29):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert f"manifest/{FILES:010d}.json" in the_fault(verify(archive_at(root), known))


def test_removed_file_is_named(root: Path) -> None:
    path = file_of(root, 3)
    path.unlink()
    fault = the_fault(verify(archive_at(root), None))
    assert path.name in fault
    assert "(entry 3, usage.v1/2 [20, 30)): the file is gone" in fault


def test_file_of_another_range_in_its_place_is_found(root: Path) -> None:
    shutil.copy(file_of(root, 1), file_of(root, 2))
    assert "entry 2" in the_fault(verify(archive_at(root), None))


def test_cut_file_is_found(root: Path) -> None:
    path = file_of(root, 4)
    path.write_bytes(path.read_bytes()[:-5])
    assert "bytes, its entry says" in the_fault(verify(archive_at(root), None))


def test_reordered_manifest_is_found(root: Path) -> None:
    known = recorded(root)
    second, third = entry_path(root, 2), entry_path(root, 3)
    contents = second.read_bytes(), third.read_bytes()
    third.write_bytes(contents[0])
    second.write_bytes(contents[1])
    for knowledge in (None, known):
        fault = the_fault(verify(archive_at(root), knowledge))
        assert "0000000002.json: it says that it is entry 3: the manifest was reordered" in fault


def test_entry_taken_out_of_the_middle_is_found(root: Path) -> None:
    entry_path(root, 2).unlink()
    fault = the_fault(verify(archive_at(root), None))
    assert "0000000002.json: the entry is gone; entry 3 is there" in fault


def test_cut_end_is_found_by_what_the_store_knows(root: Path) -> None:
    known = recorded(root)
    file_of(root, FILES).unlink()
    entry_path(root, FILES).unlink()
    assert verify(archive_at(root), None).faults == []
    fault = the_fault(verify(archive_at(root), known))
    assert "0000000004.json: the entry is gone; the billing store has it on record" in fault
    assert "up to offset 40" in fault


def test_partition_that_vanished_whole_is_found_by_what_the_store_knows(root: Path) -> None:
    known = recorded(root)
    shutil.rmtree(root / "usage.v1")
    assert verify(archive_at(root), None).faults == []
    assert "0000000001.json: the entry is gone" in the_fault(verify(archive_at(root), known))


def rewrite(root: Path, number: int, change: Callable[[dict[str, object]], None]) -> None:
    """Edit an entry and write it in canonical form, as somebody who knows the format would."""
    path = entry_path(root, number)
    said = json.loads(path.read_bytes())
    change(said)
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    path.write_text(text + "\n")


@pytest.mark.parametrize(
    ("field", "value"),
    [("records", 9), ("end", 21), ("start", 9), ("last_timestamp_ms", 5), ("file_bytes", 1)],
)
def test_edited_entry_is_found(root: Path, field: str, value: int) -> None:
    known = recorded(root)
    rewrite(root, 2, lambda said: said.update({field: value}))
    without, with_store = (verify(archive_at(root), one) for one in (None, known))
    assert the_fault(without)
    assert "0000000002.json: the entry was changed" in the_fault(with_store)


def test_edited_last_entry_and_file_are_found_by_what_the_store_knows(root: Path) -> None:
    """A forger who rewrites the last range, hashes and all."""
    known = recorded(root)
    archive = archive_at(root)
    entry_path(root, FILES).unlink()
    values = [b'{"value":"forged"}'] * PER_FILE
    append_records(archive, PLACE, raw_records(values, 30))
    assert verify(archive, None).faults == []
    assert "0000000004.json: the entry was changed" in the_fault(verify(archive, known))


def test_whole_chain_forged_anew_is_found_by_what_the_store_knows(root: Path) -> None:
    known = recorded(root)
    shutil.rmtree(root / "usage.v1")
    append_records(archive_at(root), PLACE, raw_records([b"forged"] * 40))
    assert "0000000001.json: the entry was changed" in the_fault(verify(archive_at(root), known))


def test_spaces_in_an_entry_are_found(root: Path) -> None:
    path = entry_path(root, FILES)
    path.write_bytes(path.read_bytes().replace(b",", b", ", 1))
    assert "canonical form" in the_fault(verify(archive_at(root), None))


def test_records_out_of_their_range_or_order_are_found(root: Path) -> None:
    archive = archive_at(root)
    shuffled = raw_records([b"a", b"b", b"c"], 40)
    shuffled.offsets = [41, 40, 42]
    archive.append(archive.seal(archive.head(PLACE), 43, table_of_records(*PLACE, shuffled)))
    assert "offset 40 stands behind 41" in the_fault(verify(archive, None))


def test_entry_put_into_another_partitions_chain_is_found(root: Path) -> None:
    number = FILES + 1
    strange = archive_at(root).entry(OTHER, 1)
    assert strange is not None
    entry_path(root, number).write_bytes(strange)
    assert "it is about capacity.v1/0" in the_fault(verify(archive_at(root), None))


def test_gap_in_the_middle_is_a_fault_and_one_at_the_start_is_noted(tmp_path: Path) -> None:
    archive = archive_at(tmp_path)
    archive.append(gap(PLACE, archive.head(PLACE), 100))
    append_records(archive, PLACE, raw_records([b"a"], 100))
    found = verify(archive, None)
    assert (found.faults, found.late) == ([], 100)
    archive.append(gap(PLACE, archive.head(PLACE), 150))
    assert "lost these records before they were archived" in the_fault(verify(archive, None))


def test_file_that_was_cut_off_before_its_entry_is_no_fault(root: Path) -> None:
    archive = archive_at(root)
    records: RawRecords = raw_records([b"late"], 40)
    archive.seal(archive.head(PLACE), 41, table_of_records(*PLACE, records))
    found = verify(archive, recorded(root))
    assert (found.faults, found.leftovers) == ([], 1)
