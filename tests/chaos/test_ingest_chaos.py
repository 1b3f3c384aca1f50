"""Workers are killed, stopped, doubled; ClickHouse dies mid-insert: every event exactly once.

Short by default (CI). The long profile: `RENTROLL_CHAOS_ROUNDS=20 pytest tests/chaos`.
"""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.clickhouse.client import Client, connect
from infra.clickhouse.migrate import migrate
from infra.kafka.topics import ensure_topics
from tests.support.ingest_log import SentLog, copies_of, problems, traffic
from tests.support.ingest_process import start_worker
from tests.support.servers.clickhouse import ClickHouseAwayAndBack
from tests.support.servers.kafka import KafkaAwayAndBack

pytestmark = pytest.mark.timeout(900)

ROUNDS = int(os.environ.get("RENTROLL_CHAOS_ROUNDS", "1"))
STEPS = (
    "before-promise:2",
    "after-promise:2",
    "before-dead-letters:1",
    "before-insert:3",
    "after-insert:2",
    "before-settle:1",
    "after-settle:1",
)
NOISE = [("usage.v1", b"noise %d" % number) for number in range(20)]
PATIENCE_S = 150


class Crew:
    """Workers of one consumer group on one ledger; all are gone when the test ends."""

    def __init__(self, kafka: str, clickhouse: str, name: str, folder: Path) -> None:
        self.database = f"chaos_{name}"
        self._kafka, self._clickhouse, self._group = kafka, clickhouse, f"chaos-{name}"
        self._folder = folder
        self._workers: list[subprocess.Popen[bytes]] = []
        migrate(clickhouse, self.database)

    def start(
        self,
        *,
        die_at: str = "",
        until_idle_s: float | None = None,
        settings: dict[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        worker = start_worker(
            kafka=self._kafka,
            clickhouse=self._clickhouse,
            group=self._group,
            database=self.database,
            folder=self._folder / f"worker-{len(self._workers)}",
            die_at=die_at,
            until_idle_s=until_idle_s,
            settings=settings,
        )
        self._workers.append(worker)
        return worker

    def logs(self) -> str:
        return "\n".join(
            path.read_text(errors="replace")[-4_000:] for path in self._folder.glob("*/worker.log")
        )

    def end(self) -> None:
        for worker in self._workers:
            worker.kill()
            worker.wait(10)


@pytest.fixture
def crew_of(
    kafka_bootstrap: str, clickhouse_url: str, tmp_path: Path
) -> Iterator[Callable[[str], Crew]]:
    crews: list[Crew] = []

    def make(name: str) -> Crew:
        crews.append(Crew(kafka_bootstrap, clickhouse_url, name, tmp_path / name))
        return crews[-1]

    yield make
    for crew in crews:
        crew.end()


@pytest.fixture
def sent(kafka_bootstrap: str) -> SentLog:
    ensure_topics(kafka_bootstrap)
    return SentLog(kafka_bootstrap)


@contextmanager
def ledger_of(clickhouse_url: str, crew: Crew) -> Iterator[Client]:
    with connect(clickhouse_url, crew.database) as ledger:
        yield ledger


def test_killed_at_every_step_of_the_protocol_nothing_is_lost_or_doubled(
    sent: SentLog, crew_of: Callable[[str], Crew], clickhouse_url: str
) -> None:
    """Each step has its own group and ledger on the same log, so that all can die at once."""
    sent.send(traffic("steps", 2_000).records, NOISE)
    crews = {step: crew_of(f"step_{number}") for number, step in enumerate(STEPS)}
    dying = {step: crew.start(die_at=step) for step, crew in crews.items()}
    for step, worker in dying.items():
        assert _ended(worker, PATIENCE_S) == -signal.SIGKILL, f"{step}: {crews[step].logs()}"
    heirs = {step: crew.start(until_idle_s=1) for step, crew in crews.items()}
    for step, worker in heirs.items():
        assert _ended(worker, PATIENCE_S) == 0, f"{step}: {crews[step].logs()}"
        with ledger_of(clickhouse_url, crews[step]) as ledger:
            assert problems(ledger, sent) == [], step


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_workers_that_come_go_and_die_while_events_arrive_lose_and_double_nothing(
    sent: SentLog, crew_of: Callable[[str], Crew], clickhouse_url: str, tmp_path: Path, round_: int
) -> None:
    luck = random.Random(f"{round_} {os.environ.get('RENTROLL_CHAOS_SEED', '')}")
    crew = crew_of(f"crew_{round_}")
    first, second = crew.start(), crew.start()
    host = traffic(f"crew-{round_}", 3_000)
    slices = [host.records[start : start + 500] for start in range(0, len(host.records), 500)]
    for number, records in enumerate(slices):
        sent.send(records, NOISE[number : number + 2])
        time.sleep(luck.uniform(0.5, 2.5))
        if number == 2:
            # Before it has joined it has no handler yet, and nothing to finish either.
            _wait_until((tmp_path / f"crew_{round_}/worker-0/ingest.json").exists, crew)
            first.send_signal(signal.SIGTERM)
        if number == 4:
            second.kill()
            crew.start()
    last = crew.start()
    _wait_until((tmp_path / f"crew_{round_}/worker-3/ingest.json").exists, crew)
    with ledger_of(clickhouse_url, crew) as ledger:
        _wait_until(lambda: problems(ledger, sent) == [], crew)
        last.send_signal(signal.SIGTERM)
        assert _ended(last, PATIENCE_S) == 0, crew.logs()
        assert _ended(first, PATIENCE_S) == 0, crew.logs()
        assert problems(ledger, sent) == []


def test_worker_that_is_stopped_while_another_joins_ends_and_nothing_is_lost_or_doubled(
    sent: SentLog, kafka_bootstrap: str, tmp_path: Path
) -> None:
    """The group moves on while the worker still waits for its last insert."""
    with ClickHouseAwayAndBack(tmp_path / "clickhouse") as clickhouse:
        crew = Crew(kafka_bootstrap, clickhouse.url, "stopped", tmp_path / "crew")
        leaving = crew.start(settings={"RENTROLL_INGEST_GRACE_S": "120"})
        _wait_until((tmp_path / "crew/worker-0/ingest.json").exists, crew)
        clickhouse.freeze()
        sent.send(traffic("stopped", 1_000).records)
        time.sleep(2)
        leaving.send_signal(signal.SIGTERM)
        heir = crew.start()
        _wait_until((tmp_path / "crew/worker-1/ingest.json").exists, crew)
        clickhouse.thaw()
        assert _ended(leaving, 60) == 0, crew.logs()
        with ledger_of(clickhouse.url, crew) as ledger:
            _wait_until(lambda: problems(ledger, sent) == [], crew)
            heir.send_signal(signal.SIGTERM)
            assert _ended(heir, 60) == 0, crew.logs()
            assert problems(ledger, sent) == []
        crew.end()


def test_clickhouse_killed_mid_insert_costs_time_only(
    sent: SentLog, kafka_bootstrap: str, tmp_path: Path
) -> None:
    with ClickHouseAwayAndBack(tmp_path / "clickhouse") as clickhouse:
        crew = Crew(kafka_bootstrap, clickhouse.url, "restart", tmp_path / "crew")
        host = traffic("restart", 3_000)
        sent.send(host.records)
        worker = crew.start(until_idle_s=2)
        with ledger_of(clickhouse.url, crew) as ledger:
            _wait_until(lambda: sum(copies_of(ledger, host.records).values()) > 300, crew)
        clickhouse.kill()
        time.sleep(3)
        clickhouse.start()
        assert _ended(worker, PATIENCE_S) == 0, crew.logs()
        with ledger_of(clickhouse.url, crew) as ledger:
            assert problems(ledger, sent) == []
        crew.end()


def test_worker_that_is_stopped_while_the_broker_is_down_ends_and_the_next_one_goes_on(
    clickhouse_url: str, tmp_path: Path
) -> None:
    with KafkaAwayAndBack(tmp_path / "kafka") as broker:
        ensure_topics(broker.bootstrap)
        sent = SentLog(broker.bootstrap)
        crew = Crew(broker.bootstrap, clickhouse_url, "broker", tmp_path / "crew")
        leaving = crew.start(settings={"RENTROLL_INGEST_GRACE_S": "5"})
        _wait_until((tmp_path / "crew/worker-0/ingest.json").exists, crew)
        host = traffic("broker", 1_000)
        sent.send(host.records)
        with ledger_of(clickhouse_url, crew) as ledger:
            _wait_until(lambda: sum(copies_of(ledger, host.records).values()) > 100, crew)
        broker.kill()
        leaving.send_signal(signal.SIGTERM)
        assert _ended(leaving, 60) == 0, crew.logs()
        broker.start()
        assert _ended(crew.start(until_idle_s=1), PATIENCE_S) == 0, crew.logs()
        with ledger_of(clickhouse_url, crew) as ledger:
            assert problems(ledger, sent) == []
        crew.end()


def _ended(worker: subprocess.Popen[bytes], within_s: float) -> int | None:
    """The exit status; None if it still runs, with where its threads and tasks are in its log."""
    try:
        return worker.wait(within_s)
    except subprocess.TimeoutExpired:
        worker.send_signal(signal.SIGUSR1)
        time.sleep(2)
        return None


def _wait_until(holds: Callable[[], bool], crew: Crew) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, crew.logs()
        time.sleep(0.5)
