"""What a sidecar says about itself, and how a monitor reads it."""

from pathlib import Path

import msgspec

from inference.sidecar_status import (
    STATUS_FILE,
    EngineStatus,
    SidecarStatus,
    read_status,
    sidecar_metrics,
    write_status,
)

STATUS = SidecarStatus(
    pid=7,
    source="0190-s",
    state="open",
    events=10,
    unpublished_events=3,
    outbox_bytes=900,
    outbox_max_bytes=1_000,
    rebuilds=1,
    resent=2,
    open_requests=4,
    living_writers=2,
    merged_unix_ms=5_000,
    written_unix_ms=5_100,
)
WELL = EngineStatus(engine="e1", model="m", faults=0, fault="", unwritten=0)
BLIND = EngineStatus(engine="e2", model='a"b\\c', faults=2, fault="schedule: KeyError", unwritten=9)


def samples(text: str) -> dict[str, int]:
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: int(number) for name, number in lines}


def test_status_comes_back_as_it_was_written(tmp_path: Path) -> None:
    status = msgspec.structs.replace(STATUS, engines=(WELL, BLIND))
    write_status(tmp_path, status)
    assert read_status(tmp_path) == status


def test_no_file_or_half_a_file_is_no_status(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    (tmp_path / STATUS_FILE).write_text('{"pid": 7')
    assert read_status(tmp_path) is None


def test_metrics_tell_lag_backlog_and_what_was_published() -> None:
    found = samples(sidecar_metrics(STATUS, now_ms=5_250))
    at = '{source="0190-s"}'
    assert found[f"rentroll_sidecar_lag_ms{at}"] == 250
    assert found[f"rentroll_sidecar_published_total{at}"] == 7
    assert found[f"rentroll_sidecar_outbox_bytes{at}"] == 900
    assert found[f"rentroll_sidecar_producer_rebuilds_total{at}"] == 1


def test_lag_of_a_dead_sidecar_grows() -> None:
    name = 'rentroll_sidecar_lag_ms{source="0190-s"}'
    later = [samples(sidecar_metrics(STATUS, now_ms=now))[name] for now in (6_000, 9_000)]
    assert later == [1_000, 4_000]


def test_engine_with_a_fault_says_that_its_intervals_do_not_close() -> None:
    status = msgspec.structs.replace(STATUS, engines=(WELL, BLIND))
    found = samples(sidecar_metrics(status, now_ms=0))
    assert found['rentroll_engine_intervals_close{engine="e1",model="m"}'] == 1
    assert found['rentroll_engine_intervals_close{engine="e2",model="a\\"b\\\\c"}'] == 0
    assert found['rentroll_engine_faults_total{engine="e2",model="a\\"b\\\\c"}'] == 2


def test_metrics_have_one_type_line_per_name_and_nothing_without_a_sidecar() -> None:
    text = sidecar_metrics(msgspec.structs.replace(STATUS, engines=(WELL, BLIND)), now_ms=0)
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names)) == 12
    assert sidecar_metrics(None, now_ms=0) == ""
