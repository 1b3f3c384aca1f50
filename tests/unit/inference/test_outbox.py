"""The outbox numbers densely, signs what it vouches for, and deletes only what is acknowledged."""

import json
from pathlib import Path

import pytest

from inference.outbox import Outbox, OutboxReader
from inference.settings import InferenceSettings
from inference.spool import Position, Spool, encode_frame, segment_numbers, segment_path
from infra.signing import range_is_signed
from schemas.errors import SpoolError
from schemas.fleet import RangePurpose, SignedRange
from schemas.ids import content_hash, range_sha256
from schemas.topics import MODEL_OF_TYPE
from tests.support.simulated import START_MS, identity, outbox_rows, record

SETTINGS = InferenceSettings.model_validate({"spool_fsync": "never", "outbox_batch_records": 7})


def opened(folder: Path, settings: InferenceSettings = SETTINGS) -> Outbox:
    return Outbox(folder, identity(), settings, opened_ms=START_MS)


def spooled(folder: Path, count: int, first: int = 0) -> None:
    spool = Spool(folder, SETTINGS)
    spool.append([record(number) for number in range(first, first + count)])
    spool.close()


def test_sequence_is_dense_over_batches_and_restarts(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    spooled(tmp_path / "spool", 20)
    assert outbox.drain(tmp_path / "spool") == 20
    outbox.close()
    spooled(tmp_path / "spool", 15, first=20)
    outbox = opened(tmp_path)
    assert outbox.drain(tmp_path / "spool") == 15
    assert outbox.drain(tmp_path / "spool") == 0
    outbox.close_source("drained", now_ms=START_MS + 99)
    outbox.close_source("drained", now_ms=START_MS + 99)
    outbox.close()
    rows = outbox_rows(tmp_path)
    assert [row.sequence for row in rows] == list(range(1, 38))
    assert [json.loads(row.value)["sequence"] for row in rows] == list(range(1, 38))
    assert [row.topic for row in (rows[0], rows[1], rows[-1])] == [
        "control.v1",
        "usage.v1",
        "control.v1",
    ]


def test_read_segments_are_deleted_and_the_living_one_stays(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    for first in (0, 10, 20):
        spooled(tmp_path / "spool", 10, first=first)
    outbox.drain(tmp_path / "spool")
    assert segment_numbers(tmp_path / "spool") == [2]
    outbox.close()


def test_signed_ranges_follow_each_other_and_cover_everything(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    spool = Spool(tmp_path / "spool", SETTINGS)
    kinds = ["request.finished", "request.finished", "engine.interval"] * 4
    spool.append([record(number, kind=kind, text='{"a":1}') for number, kind in enumerate(kinds)])
    spool.close()
    outbox.drain(tmp_path / "spool")
    outbox.close_source("drained", now_ms=START_MS)
    outbox.close()
    rows = outbox_rows(tmp_path)
    public_key = identity().key.public_key_hex()
    covered = 0
    for row in rows:
        event = json.loads(row.value)
        if "range" not in event["data"]:
            continue
        signed = SignedRange.model_validate_json(json.dumps(event["data"]["range"]))
        assert (signed.sequence_first, signed.sequence_last) == (covered + 1, row.sequence - 1)
        hashes = [content_hash(one.value) for one in rows[covered : row.sequence - 1]]
        assert signed.sha256 == range_sha256(hashes)
        purpose: RangePurpose = "closed" if event["type"].endswith("closed.v1") else "interval"
        assert range_is_signed(public_key, event["source"], purpose, signed)
        covered = signed.sequence_last
    assert covered == len(rows) - 1


def test_damaged_frame_becomes_a_declared_loss(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    good, bad, more = (encode_frame(record(number)) for number in range(3))
    (tmp_path / "spool").mkdir()
    segment_path(tmp_path / "spool", 0).write_bytes(good + bad.replace(b"acme", b"evil") + more)
    assert outbox.drain(tmp_path / "spool") == 3
    assert [damage.reason for damage in outbox.damages] == ["spool.corrupt_frame"]
    outbox.close()
    lost = json.loads(outbox_rows(tmp_path)[2].value)
    event = MODEL_OF_TYPE[lost["type"]].model_validate_json(outbox_rows(tmp_path)[2].value)
    assert event.model_dump()["data"]["reason"] == "spool.corrupt_frame"
    assert lost["subject"] == identity().source


def test_event_is_deleted_only_when_acknowledged(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    spooled(tmp_path / "spool", 10)
    outbox.drain(tmp_path / "spool")
    before = outbox.pending_bytes()
    reader = OutboxReader(tmp_path)
    rows = reader.read(0, 100)
    reader.acknowledge([rows[3].sequence, rows[0].sequence])
    assert reader.unpublished() == 9
    assert [row.sequence for row in reader.read(0, 3)] == [2, 3, 5]
    assert outbox.pending_bytes() == before - len(rows[3].value) - len(rows[0].value)
    reader.acknowledge([rows[0].sequence])
    assert reader.unpublished() == 9
    reader.close()
    outbox.close()


def test_outbox_at_its_bound_leaves_the_rest_in_the_spool(tmp_path: Path) -> None:
    bounded = SETTINGS.model_copy(update={"outbox_max_bytes": 65_536})
    outbox = opened(tmp_path, bounded)
    spooled(tmp_path / "spool", 2_000)
    taken = outbox.drain(tmp_path / "spool")
    assert 0 < taken < 2_000
    assert outbox.drain(tmp_path / "spool") == 0
    reader = OutboxReader(tmp_path)
    reader.acknowledge([row.sequence for row in reader.read(0, 100_000)])
    assert outbox.drain(tmp_path / "spool") > 0
    reader.close()
    outbox.close()


def test_outbox_of_another_source_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with pytest.raises(SpoolError, match="is the outbox of source"):
        Outbox(tmp_path, identity("two"), SETTINGS, opened_ms=START_MS)
    with pytest.raises(SpoolError, match="no outbox"):
        OutboxReader(tmp_path / "elsewhere")


def test_nothing_follows_a_closed_source(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    outbox.close_source("drained", now_ms=START_MS)
    with pytest.raises(SpoolError, match="closed"):
        outbox.take([record(1)], Position(0, 1))
    outbox.close()
