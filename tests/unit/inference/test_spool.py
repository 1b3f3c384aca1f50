"""The spool keeps what was written, says what it cannot read, and knows its bound."""

import os
from pathlib import Path

import msgspec
import pytest

from inference.settings import InferenceSettings
from inference.spool import (
    Damage,
    Position,
    Spool,
    decode_frame,
    encode_frame,
    read_spool,
    segment_numbers,
    segment_path,
    writer_lives,
)
from inference.wire import LostWire, Record, format_time
from schemas.errors import SpoolError, SpoolFullError
from schemas.ids import derived_uuid, uuid7, uuid7_unix_ms
from tests.support.simulated import record

START = Position(0, 0)
ID = uuid7(1_790_000_000_000, 1)


def settings(**changes: object) -> InferenceSettings:
    return InferenceSettings.model_validate({"spool_fsync": "never", **changes})


def everything(folder: Path, start: Position = START) -> list[Record | Damage]:
    return read_spool(folder, start, 10_000)[0]


def test_what_was_appended_is_read_back_in_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path, settings())
    records = [record(number, text=f'{{"n":{number}}}') for number in range(50)]
    spool.append(records[:20])
    spool.append(records[20:])
    assert everything(tmp_path) == records
    spool.close()


@pytest.mark.parametrize("policy", ["always", "interval", "never"])
def test_every_fsync_policy_keeps_the_frames(tmp_path: Path, policy: str) -> None:
    spool = Spool(tmp_path, settings(spool_fsync=policy, spool_fsync_interval_ms=1))
    for number in range(20):
        spool.append([record(number)])
    spool.close()
    assert len(everything(tmp_path)) == 20


def test_reading_goes_on_from_a_position_and_across_segments(tmp_path: Path) -> None:
    spool = Spool(tmp_path, settings(spool_segment_bytes=4_096))
    records = [record(number, text='{"x":"' + "y" * 400 + '"}') for number in range(60)]
    for one in records:
        spool.append([one])
    assert len(segment_numbers(tmp_path)) > 3
    first, position = read_spool(tmp_path, START, 25)
    assert first == records[:25]
    assert everything(tmp_path, position) == records[25:]
    spool.close()


def test_living_writer_is_seen_and_a_second_one_is_refused(tmp_path: Path) -> None:
    spool = Spool(tmp_path, settings())
    assert writer_lives(segment_path(tmp_path, 0))
    with pytest.raises(SpoolError, match="living writer"):
        Spool(tmp_path, settings())
    spool.close()
    assert not writer_lives(segment_path(tmp_path, 0))
    Spool(tmp_path, settings()).close()
    assert segment_numbers(tmp_path) == [0, 1]


def test_unfinished_last_line_of_a_living_writer_is_waited_for(tmp_path: Path) -> None:
    spool = Spool(tmp_path, settings())
    spool.append([record(1)])
    with segment_path(tmp_path, 0).open("ab") as file:
        file.write(encode_frame(record(2))[:30])
        file.flush()
        assert everything(tmp_path) == [record(1)]
        file.write(encode_frame(record(2))[30:])
    assert everything(tmp_path) == [record(1), record(2)]
    spool.close()


def test_torn_tail_of_a_dead_writer_is_reported(tmp_path: Path) -> None:
    spool = Spool(tmp_path, settings())
    spool.append([record(1), record(2)])
    spool.close()
    path = segment_path(tmp_path, 0)
    os.truncate(path, path.stat().st_size - 5)
    read = everything(tmp_path)
    assert read[0] == record(1)
    assert isinstance(read[1], Damage)
    assert read[1].reason == "spool.torn_tail"


def test_every_flipped_byte_of_a_frame_is_detected(tmp_path: Path) -> None:
    frame = encode_frame(record(1, text='{"gpu_ns":12345}'))
    assert decode_frame(frame) == record(1, text='{"gpu_ns":12345}')
    for index in range(len(frame) - 1):
        flipped = bytearray(frame)
        flipped[index] ^= 1
        assert decode_frame(bytes(flipped)) is None, index


def test_reading_goes_on_behind_a_corrupt_frame(tmp_path: Path) -> None:
    frames = [encode_frame(record(number)) for number in range(3)]
    broken = frames[1].replace(b"{}", b"{]")
    segment_path(tmp_path, 0).write_bytes(frames[0] + broken + frames[2])
    first, damage, last = everything(tmp_path)
    assert (first, last) == (record(0), record(2))
    assert damage == Damage("spool.corrupt_frame", Position(0, len(frames[0])), len(broken))


def test_full_spool_refuses(tmp_path: Path) -> None:
    spool = Spool(tmp_path, settings(spool_max_bytes=65_536))
    records = [record(number, text='"' + "x" * 1_000 + '"') for number in range(100)]
    spool.append(records[:50])
    with pytest.raises(SpoolFullError, match="spool_max_bytes=65536"):
        spool.append(records[50:])
    spool.close()
    assert all(isinstance(item, Record) for item in everything(tmp_path))


def test_full_spool_that_counts_declares_the_loss_when_there_is_room(tmp_path: Path) -> None:
    spool = Spool(
        tmp_path,
        settings(spool_max_bytes=65_536, spool_segment_bytes=8_192, spool_when_full="count"),
    )
    big = '"' + "x" * 1_000 + '"'
    written = [spool.append([record(number, text=big)]) for number in range(80)]
    lost = written.count(False)
    assert lost > 0
    for number in segment_numbers(tmp_path)[:-1]:
        segment_path(tmp_path, number).unlink()
    assert spool.append([record(100)])
    spool.close()
    *_, loss, last = everything(tmp_path)
    assert isinstance(loss, Record)
    assert loss.kind == "usage.lost"
    assert f'"requests":{lost},'.encode() in loss.data
    assert last == record(100)


def test_loss_is_dated_by_requests_and_not_by_ids_that_hold_no_time(tmp_path: Path) -> None:
    spool = Spool(
        tmp_path,
        settings(spool_max_bytes=65_536, spool_segment_bytes=8_192, spool_when_full="count"),
    )
    data = b'"' + b"x" * 1_000 + b'"'
    engine = derived_uuid("engine", "of no time")
    mark, part = Record("engine.mark", engine, "-", data), Record("engine.part", ID, "-", data)
    while spool.append([mark]):
        pass
    assert not spool.append([mark])
    assert not spool.append([part])
    for number in segment_numbers(tmp_path)[:-1]:
        segment_path(tmp_path, number).unlink()
    assert spool.append([part])
    spool.close()
    loss = everything(tmp_path)[-2]
    assert isinstance(loss, Record)
    found = msgspec.json.decode(loss.data, type=LostWire)
    assert found.first_lost_at == found.last_lost_at == format_time(uuid7_unix_ms(ID))
    assert found.requests == 0


def test_failed_write_leaves_no_half_batch(tmp_path: Path) -> None:
    """A full disk is a file-size limit here: the same error from the same call."""
    import resource
    import signal

    spool = Spool(tmp_path, settings())
    spool.append([record(1)])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        with pytest.raises(SpoolError, match="File too large"):
            spool.append([record(2, text='"' + "x" * 2_000 + '"')])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    spool.append([record(3)])
    spool.close()
    assert everything(tmp_path) == [record(1), record(3)]
