"""Hours, runs and decisions of the billing store, also under two processes at once."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from infra.store.decisions import Decider, append_decision, decisions_after, latest_position
from infra.store.hours import (
    HourDecision,
    hours_between,
    period_problems,
    record_hour,
    record_hours,
)
from infra.store.runs import RunHeader, next_position, record_run, runs_between
from infra.store.sources import register_source, registered_keys, revoke_key
from schemas.errors import ConservationError, ContractError
from schemas.periods import HOUR, Period, parse_period

HOUR_0 = datetime(2026, 10, 3, 4, tzinfo=UTC)
RUN = RunHeader(
    run_id="a" * 64,
    hour=HOUR_0,
    digest="d" * 64,
    offsets='{"usage.v1/0":10}',
    rules_version="1",
    decisions_position=0,
    events=10,
    rows=2,
    published_at_ms=1_000,
)
DAY = Period(datetime(2026, 10, 3, tzinfo=UTC), datetime(2026, 10, 4, tzinfo=UTC), "2026-10-03")


def published(hours: Iterator[datetime]) -> list[HourDecision]:
    return [HourDecision(hour, "published", "", 1) for hour in hours]


def test_hour_is_found_as_it_was_recorded(store: Engine) -> None:
    record_hour(store, HOUR_0, "held", "hole in source s: 4..7", 5)
    assert hours_between(store, HOUR_0, HOUR_0 + HOUR) == [
        HourDecision(HOUR_0, "held", "hole in source s: 4..7", 5)
    ]


def test_hours_between_are_half_open_and_in_order(store: Engine) -> None:
    hours = [HOUR_0 + HOUR * number for number in (2, 0, 1)]
    record_hours(store, published(iter(hours)))
    found = hours_between(store, HOUR_0, HOUR_0 + 2 * HOUR)
    assert [decision.hour for decision in found] == [HOUR_0, HOUR_0 + HOUR]


def test_newer_check_replaces_the_hour(store: Engine) -> None:
    record_hour(store, HOUR_0, "held", "waiting", 5)
    record_hour(store, HOUR_0, "published", "", 6)
    assert [row.state for row in hours_between(store, HOUR_0, HOUR_0 + HOUR)] == ["published"]


def test_older_check_leaves_the_hour(store: Engine) -> None:
    record_hour(store, HOUR_0, "published", "", 6)
    record_hour(store, HOUR_0, "held", "waiting", 5)
    assert [row.state for row in hours_between(store, HOUR_0, HOUR_0 + HOUR)] == ["published"]


def test_recording_no_hours_changes_nothing(store: Engine) -> None:
    record_hours(store, [])
    assert hours_between(store, DAY.start, DAY.end) == []


def test_unknown_state_is_refused_and_nothing_of_its_batch_is_kept(store: Engine) -> None:
    rows = [*published(iter([HOUR_0])), HourDecision(HOUR_0 + HOUR, "open", "", 1)]  # type: ignore[arg-type]
    with pytest.raises(IntegrityError):
        record_hours(store, rows)
    assert hours_between(store, DAY.start, DAY.end) == []


@pytest.mark.parametrize(
    "instant",
    [
        HOUR_0 + timedelta(minutes=1),
        HOUR_0 + timedelta(microseconds=1),
        HOUR_0.replace(tzinfo=None),
        HOUR_0.replace(tzinfo=timezone(timedelta(minutes=30))),
    ],
)
def test_instant_that_is_no_utc_hour_is_refused(store: Engine, instant: datetime) -> None:
    with pytest.raises(ContractError, match="whole UTC hour"):
        record_hour(store, instant, "published", "", 1)


def test_period_is_ready_once_every_hour_is_published(store: Engine) -> None:
    period = parse_period("2026-10")
    record_hours(store, published(period.hours()))
    assert period_problems(store, period) == []


def test_hours_outside_the_period_do_not_matter(store: Engine) -> None:
    record_hours(store, published(DAY.hours()))
    record_hour(store, DAY.start - HOUR, "held", "before", 1)
    record_hour(store, DAY.end, "held", "after", 1)
    assert period_problems(store, DAY) == []


def test_period_without_any_decision_is_one_line(store: Engine) -> None:
    assert period_problems(store, DAY) == [
        "2026-10-03T00:00Z to 2026-10-04T00:00Z (24 hours) never decided"
    ]


def test_problems_are_named_by_hour_and_neighbours_share_a_line(store: Engine) -> None:
    record_hours(store, published(DAY.hours()))
    for number, reason in ((4, "hole in source s: 4..7"), (6, "late"), (7, "late"), (23, "late")):
        record_hour(store, DAY.start + number * HOUR, "held", reason, 2)
    assert period_problems(store, DAY) == [
        "2026-10-03T04:00Z held: hole in source s: 4..7",
        "2026-10-03T06:00Z to 2026-10-03T08:00Z (2 hours) held: late",
        "2026-10-03T23:00Z held: late",
    ]


def test_run_is_found_as_it_was_recorded(store: Engine) -> None:
    assert next_position(store, HOUR_0) == 1
    assert record_run(store, RUN) == 1
    assert next_position(store, HOUR_0) == 2
    (run,) = runs_between(store, HOUR_0, HOUR_0 + HOUR)
    assert (run.position, run.header) == (1, RUN)


def test_same_run_again_keeps_its_position_and_time(store: Engine) -> None:
    record_run(store, RUN)
    assert record_run(store, replace(RUN, published_at_ms=2_000)) == 1
    assert [run.header for run in runs_between(store, HOUR_0, HOUR_0 + HOUR)] == [RUN]


def test_same_run_with_other_content_is_refused(store: Engine) -> None:
    record_run(store, RUN)
    with pytest.raises(ConservationError, match="recorded with events=10, now 11"):
        record_run(store, replace(RUN, events=11))


def test_runs_come_by_hour_and_position(store: Engine) -> None:
    later = replace(RUN, run_id="b" * 64, hour=HOUR_0 + HOUR)
    again = replace(RUN, run_id="c" * 64)
    assert [record_run(store, run) for run in (later, RUN, again)] == [1, 1, 2]
    found = runs_between(store, HOUR_0, HOUR_0 + 2 * HOUR)
    assert [run.header for run in found] == [RUN, again, later]


def test_decisions_are_dense_and_read_from_a_position_on(store: Engine) -> None:
    assert latest_position(store) == 0
    for number in (1, 2, 3):
        position = append_decision(
            store,
            kind="declared-loss",
            subject=json.dumps({"number": number}),
            reason="disk died",
            decided_by="ada",
            now_ms=number,
        )
        assert position == number
    assert latest_position(store) == 3
    assert [decision.decided_at_ms for decision in decisions_after(store, 1)] == [2, 3]
    assert decisions_after(store, 3) == []


def register(store: Engine, public_key: str = "ab" * 32) -> None:
    register_source(
        store, source="s", host="h", public_key=public_key, registered_by="ada", now_ms=1
    )


def test_registered_source_is_found_until_it_is_revoked(store: Engine) -> None:
    register(store)
    register(store)
    assert registered_keys(store) == {"s": "ab" * 32}
    revoke_key(store, "s", trusted_through=0, decider=Decider("ada", "gone", 2))
    assert registered_keys(store) == {}


def test_source_does_not_get_another_key(store: Engine) -> None:
    register(store)
    with pytest.raises(ContractError, match="source s is registered with another key"):
        register(store, "cd" * 32)
    assert registered_keys(store) == {"s": "ab" * 32}


RACE = """
import sys
from datetime import UTC, datetime, timedelta
from infra.store.decisions import append_decision
from infra.store.engine import open_store
from infra.store.hours import HourDecision, record_hours
from infra.store.runs import RunHeader, record_run
from infra.store.sources import register_source

url, me, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = open_store(url)
store.connect().close()
hour = datetime(2026, 10, 3, 4, tzinfo=UTC)
print("ready", flush=True)
sys.stdin.readline()
for number in range(rounds):
    register_source(
        store, source=f"s{number}", host=me, public_key="k", registered_by=me, now_ms=number
    )
    append_decision(store, kind="k", subject="s", reason="r", decided_by=me, now_ms=number)
    run_id = f"{me}{number:063}"
    record_run(store, RunHeader(run_id, hour, "d" * 64, "{}", "1", 0, 1, 1, number))
    hours = [hour + timedelta(hours=n) for n in range(10)]
    order = hours if me == "a" else reversed(hours)
    record_hours(store, [HourDecision(one, "held", me, number) for one in order])
store.dispose()
"""


@contextmanager
def racer(url: str, name: str, rounds: int) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", RACE, url, name, str(rounds)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_two_processes_write_at_once_and_nothing_is_lost_or_doubled(
    store: Engine, store_url: str
) -> None:
    rounds = 25
    with racer(store_url, "a", rounds) as first, racer(store_url, "b", rounds) as second:
        for process in (first, second):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in (first, second):
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        read = read_while_running(store, first, second)
        assert [p.communicate(timeout=60)[1] for p in (first, second)] == ["", ""]
        assert (first.returncode, second.returncode) == (0, 0)
    everything = list(range(1, 2 * rounds + 1))
    read += [decision.position for decision in decisions_after(store, read[-1] if read else 0)]
    assert read == everything
    runs = runs_between(store, HOUR_0, HOUR_0 + HOUR)
    assert [run.position for run in runs] == everything
    assert len({run.header.run_id for run in runs}) == 2 * rounds
    assert len(registered_keys(store)) == rounds
    hours = hours_between(store, HOUR_0, HOUR_0 + 10 * HOUR)
    assert [hour.checked_at_ms for hour in hours] == [rounds - 1] * 10


def read_while_running(store: Engine, *processes: "subprocess.Popen[str]") -> list[int]:
    """Positions as a reader sees them that never looks back."""
    read: list[int] = []
    while any(process.poll() is None for process in processes):
        read += [decision.position for decision in decisions_after(store, read[-1] if read else 0)]
        # A reader without a pause would hold SQLite's only lock most of the time.
        time.sleep(0.005)
    return read
