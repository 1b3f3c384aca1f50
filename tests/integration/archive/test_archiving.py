"""Real records go from a real broker into folders and S3: each once, killed at any step."""

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from sqlalchemy import Engine

from infra.kafka.topics import ensure_topics
from infra.objects.opening import open_objects
from infra.store.engine import open_store
from schemas.topics import TOPICS
from streams.archive import Archive
from streams.archive_verifying import verify
from tests.support.archive_process import STEPS, start_archiver
from tests.support.archives import archived_records, recorded_in
from tests.support.ingest_log import SentLog, traffic
from tests.support.servers.s3 import S3Server

pytestmark = pytest.mark.timeout(900)
PATIENCE_S = 240
Log = dict[tuple[str, int, int], tuple[bytes | None, ...]]


@pytest.fixture(scope="module")
def sent(kafka_bootstrap: str) -> SentLog:
    """A log with events, noise, and records without key or value."""
    ensure_topics(kafka_bootstrap)
    sent = SentLog(kafka_bootstrap)
    sent.send(traffic("archived", 2_500).records, [("usage.v1", b"noise"), ("dlq.v1", b"\xff")])
    producer = KafkaProducer(bootstrap_servers=kafka_bootstrap)
    producer.send("usage.v1", key=None, value=b"no key", headers=[("h", b"1"), ("none", b"")])
    producer.send("usage.v1", key=b"no value", value=None)
    producer.flush()
    producer.close()
    return sent


def log_of(bootstrap: str) -> Log:
    """Key and value of every record of every topic, by another client."""
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    places = [TopicPartition(one.name, n) for one in TOPICS for n in range(one.partitions)]
    consumer.assign(places)
    ends = consumer.end_offsets(places)
    found: Log = {}
    while any((consumer.position(place) or 0) < ends[place] for place in places):
        for place, records in consumer.poll(timeout_ms=500).items():
            for one in records:
                found[place.topic, place.partition, one.offset] = (one.key, one.value)
    consumer.close()
    return found


@dataclass
class Archivers:
    """Archivers of one archive; all are gone when the test ends."""

    kafka: str
    url: str
    store_url: str
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    group: str = ""
    running: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def start(
        self, *, kill_at: str = "", until_idle_s: float | None = None
    ) -> "subprocess.Popen[bytes]":
        archiver = start_archiver(
            kafka=self.kafka,
            archive=self.url,
            store_url=self.store_url,
            group=self.group or f"archive-{self.folder.name}",
            log=self.folder / f"archiver-{len(self.running)}.log",
            until_idle_s=until_idle_s,
            kill_at=kill_at,
            environment=self.environment,
        )
        self.running.append(archiver)
        return archiver

    def logs(self) -> str:
        return "\n".join(path.read_text()[-3_000:] for path in self.folder.glob("*.log"))

    def end(self) -> None:
        for one in self.running:
            one.kill()
            one.wait(10)


@pytest.fixture
def archivers_of(
    sent: SentLog, tmp_path: Path, store_url: str
) -> Iterator[Callable[..., Archivers]]:
    made: list[Archivers] = []

    def make(name: str, url: str = "", **environment: str) -> Archivers:
        folder = tmp_path / name
        one = Archivers(
            sent.bootstrap, url or str(folder / "archive"), store_url, folder, environment
        )
        made.append(one)
        return one

    yield make
    for one in made:
        one.end()


def ended(archiver: "subprocess.Popen[bytes]") -> int | None:
    try:
        return archiver.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        return None


def test_whole_log_is_archived_and_sound(
    sent: SentLog, archivers_of: Callable[..., Archivers], store: Engine
) -> None:
    archivers = archivers_of("whole")
    assert ended(archivers.start(until_idle_s=1)) == 0, archivers.logs()
    objects = open_objects(archivers.url)
    assert archived_records(objects) == log_of(sent.bootstrap)
    found = verify(Archive(objects), recorded_in(store))
    assert (found.faults, found.leftovers) == ([], 0)
    assert found.entries > 8


def test_next_archiver_goes_on_where_the_last_one_ended(
    sent: SentLog, archivers_of: Callable[..., Archivers]
) -> None:
    archivers = archivers_of("again")
    assert ended(archivers.start(until_idle_s=1)) == 0, archivers.logs()
    objects = open_objects(archivers.url)
    before = {one.name for one in objects.listed("")}
    assert ended(archivers.start(until_idle_s=1)) == 0, archivers.logs()
    assert {one.name for one in objects.listed("")} == before
    sent.send(traffic("more", 40).records)
    # Another group knows no offsets: the chain says where to go on.
    archivers.group = "archive-another-group"
    assert ended(archivers.start(until_idle_s=1)) == 0, archivers.logs()
    assert archived_records(objects) == log_of(sent.bootstrap)
    assert before < {one.name for one in objects.listed("")}


def test_killed_at_every_step_no_range_is_lost_or_doubled(
    sent: SentLog,
    archivers_of: Callable[..., Archivers],
    tmp_path: Path,
    migrated_sqlite_file: Path,
) -> None:
    """Each step has its own archive, group and store, so that all can die at once."""
    crews = {}
    for number, step in enumerate(STEPS):
        crews[step] = archivers_of(f"step-{number}")
        shutil.copy(migrated_sqlite_file, tmp_path / f"step-{number}.db")
        crews[step].store_url = f"sqlite:///{tmp_path}/step-{number}.db"
    dying = {step: crew.start(kill_at=step, until_idle_s=1) for step, crew in crews.items()}
    for step, archiver in dying.items():
        assert ended(archiver) == -signal.SIGKILL, f"{step}: {crews[step].logs()}"
    for crew in crews.values():
        # The chain says where to go on; the group would first have to notice the death.
        crew.group = f"heirs-of-{crew.folder.name}"
    heirs = {step: crew.start(until_idle_s=1) for step, crew in crews.items()}
    everything = log_of(sent.bootstrap)
    for step, archiver in heirs.items():
        assert ended(archiver) == 0, f"{step}: {crews[step].logs()}"
        objects = open_objects(crews[step].url)
        assert archived_records(objects) == everything, step
        store = open_store(crews[step].store_url)
        found = verify(Archive(objects), recorded_in(store))
        store.dispose()
        assert found.faults == [], step
        # None where its heir happened to write the same range: the same name, the same bytes.
        assert found.leftovers <= (step == "after-file:2"), step


def test_archiver_that_does_not_know_that_it_lost_its_partitions_changes_nothing(
    sent: SentLog,
    archivers_of: Callable[..., Archivers],
    store: Engine,
    tmp_path: Path,
    migrated_sqlite_file: Path,
) -> None:
    """It is stopped until the group has given it up, and goes on with what it had in memory.

    Each has a SQLite store of its own: a stopped process keeps the lock that it may hold.
    """
    archivers = archivers_of("zombie")
    zombie = archivers.start()
    manifest = Path(archivers.url) / "usage.v1/00000/manifest"
    _wait_until(lambda: manifest.is_dir() and any(manifest.iterdir()), archivers)
    zombie.send_signal(signal.SIGSTOP)
    sent.send(traffic("meanwhile", 600).records)
    shutil.copy(migrated_sqlite_file, tmp_path / "heir.db")
    archivers.store_url = f"sqlite:///{tmp_path}/heir.db"
    heir = archivers.start()
    everything = log_of(sent.bootstrap)
    objects = open_objects(archivers.url)
    _wait_until(lambda: len(archived_records(objects)) == len(everything), archivers)
    zombie.send_signal(signal.SIGCONT)
    time.sleep(3)
    for one in (zombie, heir):
        one.send_signal(signal.SIGTERM)
        assert ended(one) == 0, archivers.logs()
    assert archived_records(objects) == everything
    heirs_store = open_store(archivers.store_url)
    for known in (store, heirs_store):
        assert verify(Archive(objects), recorded_in(known)).faults == []
    heirs_store.dispose()


def test_archive_in_s3_is_killed_and_finished_like_one_in_a_folder(
    sent: SentLog,
    archivers_of: Callable[..., Archivers],
    s3: S3Server,
    store: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    archivers = archivers_of("s3", s3.new_bucket())
    for step in ("after-file:3", "after-entry:4"):
        archivers.group = f"s3-{step}"
        assert ended(archivers.start(kill_at=step, until_idle_s=1)) == -signal.SIGKILL, (
            archivers.logs()
        )
    archivers.group = "s3-heir"
    assert ended(archivers.start(until_idle_s=1)) == 0, archivers.logs()
    objects = open_objects(archivers.url)
    assert archived_records(objects) == log_of(sent.bootstrap)
    assert verify(Archive(objects), recorded_in(store)).faults == []


def _wait_until(holds: Callable[[], bool], archivers: Archivers) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, archivers.logs()
        time.sleep(0.3)
